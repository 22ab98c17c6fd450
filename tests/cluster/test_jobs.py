"""Jobs of every kind from `pretrain submit` to their end, good and bad."""

import json
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from bert_shards import bert_tokenizer, build_bert_shards, prose
from cluster import Hold, JobUnderTest, mlflow_status, on_node, submit, wait_until
from gan_configs import gan_tree
from image_shards import build_image_shards, draw

from data_tools.builder import BuildOptions, build
from data_tools.clean.cleaner import clean
from data_tools.clean.options import CleanOptions
from data_tools.images.builder import ImageBuildOptions, build_images
from data_tools.parts import build_part, divide, missing_parts
from data_tools.train_tokenizer import train_tokenizer
from pretrain.errors import UserError
from pretrain.run.status import read_status
from slurm.client import find_job, scancel
from slurm.sandbox.cluster import Sandbox
from slurm.status import status_command
from slurm.submission import bad_nodes, saved_step
from slurm.submit import submit_command
from slurm.watch import cancel_command, logs_command

pytestmark = pytest.mark.slow
ONE, TWO = ("slurm.nodes=1",), ("slurm.nodes=2",)
TRACKED = ("tracking.enabled=true",)
LONG = ("run.steps=100000", "checkpoint.every=100000")


def warn(job: JobUnderTest) -> None:
    """As Slurm does before the time limit."""
    job.sandbox.run("scancel", "--batch", "--signal=USR1", job.id)


def last_line(job: JobUnderTest) -> str:
    return job.log.rstrip().splitlines()[-1]


def test_a_gpt_on_two_nodes_and_its_evaluation(
    sandbox: Sandbox, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = ["parallel.tensor=2", "parallel.pipeline=2", "slurm.tasks_per_node=2", "slurm.preflight=true"]
    job = submit(sandbox, config, tmp_path / "run", *layout, *TRACKED)
    evaluation = tmp_path / "evaluation.yaml"
    evaluation.write_text(yaml.safe_dump({"evaluation": {}, "slurm": {"nodes": 1}}))
    submit_command(str(evaluation), (), None, str(job.run.path), dry_run=False)
    assert job.until_ended().state == "COMPLETED", job.log
    assert "preflight: 4 ranks on 2 nodes, CPU" in job.log
    assert "TP2" in job.log and "PP2" in job.log
    scores = job.run.evaluations
    wait_until(lambda: scores.exists() and scores.read_bytes().endswith(b"\n"), "the evaluation")
    [score] = [json.loads(line) for line in scores.read_text().splitlines()]
    assert score["step"] == 30
    assert score["token_perplexity"] < 260
    assert mlflow_status(job.run)[0] == "FINISHED"
    capsys.readouterr()
    status_command(str(job.run.path))
    logs_command(str(job.run.path), 3, 5)
    shown = capsys.readouterr().out
    assert "step        30/30" in shown
    assert " n2 rank 3 " in shown
    wait_until(lambda: not sandbox.job_processes(), "the end of the evaluation")


def other_config(config: Path, path: Path, **sections: dict[str, Any]) -> Path:
    """The config with other sections, as another file."""
    path.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | sections))
    return path


def test_every_other_kind_to_its_scored_checkpoint(
    sandbox: Sandbox, config: Path, hold: Hold, tmp_path: Path
) -> None:
    """A BERT that is scored while it trains; a classifier, and a GAN that is scored with its features.

    The GAN is told to stop while one of its ranks waits for data, and goes on.
    """
    prosaic = str(build_bert_shards(tmp_path / "prose", prose(), bert_tokenizer()))
    pictures = build_image_shards(tmp_path / "pictures", 40, 16)
    bert = other_config(
        config,
        tmp_path / "bert.yaml",
        model={"kind": "bert", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
        batch={"global_size": 8, "micro_size": 2, "sequence_length": 64},
        data={"train": prosaic, "validation_fraction": 0.1},
        checkpoint={"every": 10, "keep_last": 20},
    )
    common = {"slurm": {"nodes": 1, "preflight": False}, "tracking": {"enabled": False}}
    cnn = tmp_path / "cnn.yaml"
    cnn.write_text(
        yaml.safe_dump(
            {
                "run": {"dir": "to be overridden", "steps": 8},
                "model": {"kind": "cnn", "width": 4, "features": 6},
                "batch": {"global_size": 8, "micro_size": 4},
                "optimizer": {"lr": 1e-2},
                "data": {"train": pictures},
                **common,
            }
        )
    )
    gan = tmp_path / "gan.yaml"
    stages = {"generator_stage": 2, "discriminator_stage": 2}
    gan.write_text(yaml.safe_dump(gan_tree(data__train=pictures, run__steps=40, parallel=stages) | common))
    jobs = {
        "gan": submit(sandbox, gan, tmp_path / "gan", *TWO, *hold.job("gan")),
        "cnn": submit(sandbox, cnn, tmp_path / "cnn"),
        "bert": submit(sandbox, bert, tmp_path / "bert", "slurm.tasks_per_node=2"),
    }
    scores = tmp_path / "scores.yaml"
    every = {"evaluation": {"every_checkpoint": True}, "slurm": {"nodes": 1}}
    scores.write_text(yaml.safe_dump(every))
    submit_command(str(scores), (), None, str(tmp_path / "bert"), dry_run=False)
    interrupt_in_data_wait(jobs["gan"], hold)
    extracted = {"evaluation": {"extractor": str(tmp_path / "cnn"), "samples": 20}, "slurm": {"nodes": 1}}
    scores.write_text(yaml.safe_dump(extracted))
    submit_command(str(scores), (), None, str(tmp_path / "gan"), dry_run=False)
    for job in jobs.values():
        assert job.until_ended().state == "COMPLETED", job.log
        assert list(job.run.checkpoints.glob("step-*/manifest.json"))
    wait_until(lambda: not sandbox.run("squeue", "--noheader"), "the evaluations")
    scored = [json.loads(line) for line in jobs["bert"].run.evaluations.read_text().splitlines()]
    assert [score["step"] for score in scored] == [10, 20, 30]
    assert all("mlm_accuracy" in score for score in scored)
    assert "fd_cnn" in jobs["gan"].run.evaluations.read_text()


def interrupt_in_data_wait(job: JobUnderTest, hold: Hold) -> None:
    job.until_step(2)
    file = hold.put("gan", "data-1")
    wait_until(
        lambda: (beat := job.beat(1)) and beat.phase == "data wait" and beat.lasted > 1, "a wait for data"
    )
    step = job.step()
    warn(job)
    wait_until(lambda: job.attempts[-1].ended, "the end of the attempt")
    file.unlink()
    assert (job.attempts[-1].code, saved_step(job.run.path)) == (75, step), job.log
    job.until_requeued()


def test_a_node_without_temporary_space_is_named_and_left_out(
    sandbox: Sandbox, config: Path, tmp_path: Path
) -> None:
    space = tmp_path / "tmp"
    space.mkdir()
    on_node(sandbox, "n2", "mount", "-t", "tmpfs", "-o", "size=1M", "none", str(space))
    try:
        settings = ("slurm.preflight=true", f'slurm.environment=["TMPDIR={space}"]')
        job = submit(sandbox, config, tmp_path / "run", *settings)
        job.until_attempt(1)
        job.until_requeued()
    finally:
        on_node(sandbox, "n2", "umount", str(space))
    assert "MiB are free in" in bad_nodes(job.run.path)["n2"]
    assert job.until_ended().state == "COMPLETED", job.log
    assert "n2" not in job.attempts[-1].nodes


@pytest.fixture(scope="module")
def alone(
    sandbox: Sandbox, config: Path, hold: Hold, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, JobUnderTest]:
    """Jobs of one process each, started at once, each ended by its test."""
    folder = tmp_path_factory.mktemp("alone")
    chain = ("run.steps=60", "slurm.requeue=false", "slurm.chain=3")
    settings = {
        "cancelled": (*LONG, *TRACKED),
        "scancelled": LONG,
        "in vain": (*LONG, *TRACKED),
        "chain": chain,
    }
    return {
        name: submit(sandbox, config, folder / name, *ONE, *more, *hold.job(name))
        for name, more in settings.items()
    }


def test_a_chain_goes_on_where_requeueing_is_forbidden(
    sandbox: Sandbox, alone: dict[str, JobUnderTest]
) -> None:
    job = alone["chain"]
    job.until_step(3)
    running = find_job(job.id)
    assert running is not None
    scancel("--batch", "--signal=USR1", running.id)
    wait_until(lambda: (status := read_status(job.run)) and status.state == "finished", "the end of the run")
    wait_until(lambda: not sandbox.run("squeue", "--noheader", f"--jobs={job.id}"), "the end of the chain")
    assert [attempt.code for attempt in job.attempts] == [75, 0]
    assert "the run is finished; there is nothing to do" in job.log


def test_followed_and_cancelled_with_a_checkpoint(
    sandbox: Sandbox, config: Path, alone: dict[str, JobUnderTest], capsys: pytest.CaptureFixture[str]
) -> None:
    job = alone["cancelled"]
    job.until_step(4)
    with pytest.raises(UserError, match="of this run is running"):
        submit(sandbox, config, job.run.path, *LONG, *ONE)
    capsys.readouterr()
    status_command(str(job.run.path))
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["state"] == "running"
    assert shown["rate"].endswith("tokens/s")
    assert shown["next"].startswith("save   step 100,000, in ")
    assert {"step", "loss", "remaining", "restarts"} <= shown.keys()
    cancel_command(str(job.run.path), now=False)
    assert job.until_ended().state == "FAILED"
    assert last_line(job).startswith("pretrain job: stopped: cancelled: stopped by SIGUSR1 at step")
    assert len(list(job.run.checkpoints.glob("step-*/manifest.json"))) == 1
    status = read_status(job.run)
    assert status is not None and not status.goes_on and status.state == "stopped"
    state, reason = mlflow_status(job.run)
    assert state == "KILLED" and reason.startswith("cancelled: stopped by SIGUSR1 at step")
    with pytest.raises(UserError, match="no job of this run"):
        cancel_command(str(job.run.path), now=False)


def test_scancel_saves_and_ends(sandbox: Sandbox, alone: dict[str, JobUnderTest]) -> None:
    job = alone["scancelled"]
    job.until_step(3)
    sandbox.run("scancel", job.id)
    assert job.until_ended().state == "CANCELLED"
    assert len(list(job.run.checkpoints.glob("step-*/manifest.json"))) == 1
    assert len(job.attempts) == 1


def test_restarts_in_vain_end(sandbox: Sandbox, alone: dict[str, JobUnderTest], hold: Hold) -> None:
    job = alone["in vain"]
    job.until_step(3)
    hold.put("in vain", "data-0")  # no attempt after this one comes to a step
    for attempt in (2, 3, 4):
        warn(job)
        job.until_requeued()
        job.until_attempt(attempt)
    assert job.until_ended().state == "FAILED"
    assert "2 restarts in a row made no progress after step" in last_line(job)
    status = read_status(job.run)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", 4)
    state, reason = mlflow_status(job.run)
    assert state == "FAILED"
    assert "made no progress" in reason


def test_shards_by_arrays_are_those_of_one_process(sandbox: Sandbox, tmp_path: Path) -> None:
    """Of text, of images, and of clean text; what was done before is not sent."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"text {number} and more of it\n" * 200_000)
    train_tokenizer([], "byte").save(tmp_path / "tokenizer")
    inputs = [str(tmp_path / f"{number}.txt") for number in range(3)]
    text = {"input": inputs, "tokenizer": str(tmp_path / "tokenizer"), "output": str(tmp_path / "text")}
    pictures = {
        "input": [str(draw(tmp_path / "drawn", 4, 1200))],
        "size": 16,
        "output": str(tmp_path / "images"),
    }
    build(BuildOptions(tuple(inputs), text["tokenizer"], f"{text['output']}-alone", workers=1))
    build_images(ImageBuildOptions(tuple(pictures["input"]), f"{pictures['output']}-alone", 16, workers=1))
    cleaned = {"input": [], "quality": [], "bands": 2, "rows": 2, "output": str(tmp_path / "clean")}
    words = [a + b + c for a in "bdfgk" for b in "aeiou" for c in ("lm", "nder", "st", "tting")]
    for number in range(3):
        cleaned["input"].append(str(tmp_path / f"{number}.jsonl"))
        texts = (" ".join(Random(n // 2 + number).choices(words, k=4000)) for n in range(200))
        lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
        Path(cleaned["input"][-1]).write_text(lines)
    alone = {**cleaned, "output": f"{cleaned['output']}-alone", "workers": 1, "quality": ()}
    report = clean(CleanOptions(tuple(alone.pop("input")), **alone))
    assert report.partitions >= 3
    assert (report.documents, report.exact_duplicates, report.near_duplicates) == (600, 498, 0)
    options = BuildOptions(tuple(inputs), text["tokenizer"], text["output"], workers=1)
    assert missing_parts(divide(options), 3) == [1, 2, 3]
    build_part(divide(options), 2, 3)
    jobs = {"build": text, "images": pictures, "clean": cleaned}
    for name, section in jobs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({name: {**section, "tasks": 3}}))
        submit_command(str(tmp_path / f"{name}.yaml"), (), None, None, dry_run=False)
    assert "#SBATCH --array=1,3\n" in (tmp_path / "text.slurm" / "0001" / "parts.sbatch").read_text()
    wait_until(lambda: not sandbox.run("squeue", "--noheader"), "the end of the builds")
    for name, section in jobs.items():
        output = section["output"]
        last = "report.json" if name == "clean" else "index.json"
        assert Path(output, last).exists(), output
        difference = ["diff", "--recursive", "--brief", f"{output}-alone", output]
        assert subprocess.run(difference, capture_output=True, text=True).stdout == ""
        submit_command(str(tmp_path / f"{name}.yaml"), (), None, None, dry_run=False)
    assert not sandbox.run("squeue", "--noheader")
