"""Jobs of every kind from `pretrain submit` to their end, good and bad."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_shards import bert_tokenizer, build_bert_shards, prose
from cluster import JobUnderTest, submit, wait_until
from gan_configs import gan_tree
from image_shards import build_image_shards

from data_tools.builder import BuildOptions, build
from data_tools.parts import build_part, missing_parts
from data_tools.train_tokenizer import train_tokenizer
from pretrain.errors import UserError
from pretrain.folder import RunFolder
from pretrain.status import read_status
from slurm.client import find_job, scancel
from slurm.sandbox.cluster import Sandbox
from slurm.status import status_command
from slurm.submission import bad_nodes
from slurm.submit import submit_command
from slurm.watch import cancel_command, logs_command

pytestmark = pytest.mark.slow
ONE = ("slurm.nodes=1",)
TRACKED = ("tracking.enabled=true",)
LONG = ("run.steps=100000", "checkpoint.every=100000")


def last_line(job: JobUnderTest) -> str:
    return job.log.rstrip().splitlines()[-1]


def mlflow_status(run: RunFolder) -> tuple[str, str]:
    """State and reason of the one MLflow run in a run folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.database}")
    [found] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return found.info.status, found.data.tags.get("reason", "")


def test_a_gpt_on_two_nodes_and_its_evaluation(
    sandbox: Sandbox, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = ["parallel.tensor=2", "parallel.pipeline=2", "slurm.tasks_per_node=2", "slurm.preflight=true"]
    job = submit(sandbox, config, *layout, *TRACKED)
    evaluation = tmp_path / "evaluation.yaml"
    evaluation.write_text(yaml.safe_dump({"evaluation": {}, "slurm": {"nodes": 1}}))
    submit_command(str(evaluation), (), None, str(job.run.path), dry_run=False)
    assert job.until_ended().state == "COMPLETED", job.log
    assert "preflight: 4 ranks on 2 nodes, CPU" in job.log
    assert "TP2" in job.log and "PP2" in job.log
    wait_until(job.run.evaluations.exists, "the evaluation")
    [score] = [json.loads(line) for line in job.run.evaluations.read_text().splitlines()]
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


def test_a_bert_on_four_ranks_and_a_gan_on_two(sandbox: Sandbox, config: Path, tmp_path: Path) -> None:
    shards = build_bert_shards(tmp_path / "prose", prose(), bert_tokenizer())
    slurm = {"nodes": 2, "preflight": False}
    bert: dict[str, Any] = yaml.safe_load(config.read_text())
    bert["model"]["kind"] = "bert"
    bert["run"]["dir"] = str(tmp_path / "bert")
    bert["batch"] = {"global_size": 8, "micro_size": 2, "sequence_length": 64}
    bert["data"]["train"] = str(shards)
    bert["slurm"] = {**slurm, "tasks_per_node": 2}
    pictures = build_image_shards(tmp_path / "pictures", 40, 16)
    stages = {"generator_stage": 2, "discriminator_stage": 2}
    gan = gan_tree(run__dir=str(tmp_path / "gan"), data__train=pictures, parallel=stages)
    gan |= {"slurm": slurm, "tracking": {"enabled": False}}
    for tree in (bert, gan):
        config.write_text(yaml.safe_dump(tree))
        job = submit(sandbox, config)
        assert job.until_ended().state == "COMPLETED", job.log
        assert list(job.run.checkpoints.glob("step-*/manifest.json"))
    evaluation = tmp_path / "evaluation.yaml"
    every = {"evaluation": {"run": str(tmp_path / "bert"), "every_checkpoint": True}}
    evaluation.write_text(yaml.safe_dump(every))
    submit_command(str(evaluation), (), None, None, dry_run=False)
    wait_until(lambda: not sandbox.run("squeue", "--noheader"), "the evaluation")
    [score] = (tmp_path / "bert" / "evaluations.jsonl").read_text().splitlines()
    assert "mlm_accuracy" in score


def test_a_node_without_temporary_space_is_named_and_left_out(
    sandbox: Sandbox, config: Path, tmp_path: Path
) -> None:
    space = tmp_path / "tmp"
    space.mkdir()
    sandbox.on_node("n2", ["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(space)])
    try:
        job = submit(sandbox, config, "slurm.preflight=true", f'slurm.environment=["TMPDIR={space}"]')
        job.until_attempt(1)
        job.until_requeued()
    finally:
        sandbox.on_node("n2", ["umount", str(space)])
    assert "MiB are free in" in bad_nodes(job.run.path)["n2"]
    assert job.until_ended().state == "COMPLETED", job.log
    assert job.attempts[-1].nodes == ("n1", "n3")


def test_cancelled_with_a_checkpoint(sandbox: Sandbox, config: Path) -> None:
    job = submit(sandbox, config, *LONG, *ONE)
    job.until_step(3)
    with pytest.raises(UserError, match="of this run is running"):
        submit(sandbox, config, *LONG, *ONE)
    cancel_command(str(job.run.path), now=False)
    assert job.until_ended().state == "FAILED"
    assert last_line(job).startswith("pretrain job: stopped: cancelled: stopped by SIGUSR1 at step")
    assert len(list(job.run.checkpoints.glob("step-*/manifest.json"))) == 1
    with pytest.raises(UserError, match="no job of this run"):
        cancel_command(str(job.run.path), now=False)


def test_scancel_saves_and_ends(sandbox: Sandbox, config: Path) -> None:
    job = submit(sandbox, config, *LONG, *ONE)
    job.until_step(3)
    sandbox.run("scancel", job.id)
    assert job.until_ended().state == "CANCELLED"
    assert len(list(job.run.checkpoints.glob("step-*/manifest.json"))) == 1
    assert len(job.attempts) == 1


def test_a_killed_rank_frees_the_nodes(sandbox: Sandbox, config: Path) -> None:
    job = submit(sandbox, config, *LONG)
    job.until_step(3)
    began = time.monotonic()
    job.rank(1).send(signal.SIGKILL)
    assert job.until_ended().state == "FAILED"
    assert time.monotonic() - began < 60
    assert last_line(job).startswith("pretrain job: stopped: rank 1 on n2: Killed")
    assert len(job.attempts) == 1
    assert not list(job.run.path.rglob("*.tmp"))


def test_restarts_in_vain_end(sandbox: Sandbox, config: Path) -> None:
    job = submit(sandbox, config, *LONG, *ONE, *TRACKED)
    job.until_step(3)
    for attempt in (2, 3, 4):
        sandbox.run("scancel", "--batch", "--signal=USR1", job.id)
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


def test_a_chain_goes_on_where_requeueing_is_forbidden(sandbox: Sandbox, config: Path) -> None:
    job = submit(sandbox, config, *ONE, "run.steps=3000", "slurm.requeue=false", "slurm.chain=3")
    job.until_step(3)
    running = find_job(job.id)
    assert running is not None
    scancel("--batch", "--signal=USR1", running.id)
    wait_until(lambda: (status := read_status(job.run)) and status.state == "finished", "the end of the run")
    wait_until(lambda: not sandbox.run("squeue", "--noheader"), "the end of the chain")
    assert [attempt.code for attempt in job.attempts] == [75, 0]
    assert "the run is finished; there is nothing to do" in job.log


def test_shards_by_an_array_are_those_of_one_process(sandbox: Sandbox, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"text {number} and more of it\n" * 200_000)
    train_tokenizer([], "byte").save(tmp_path / "tokenizer")
    inputs = tuple(str(tmp_path / f"{number}.txt") for number in range(3))
    alone = BuildOptions(inputs, str(tmp_path / "tokenizer"), str(tmp_path / "alone"), workers=1)
    build(alone)
    output = str(tmp_path / "shards")
    section = {
        "input": list(inputs),
        "tokenizer": alone.tokenizer,
        "output": output,
        "tasks": 3,
    }
    config = tmp_path / "build.yaml"
    config.write_text(yaml.safe_dump({"build": section}))
    options = BuildOptions(inputs, alone.tokenizer, output, workers=1)
    assert missing_parts(options, 3) == [1, 2, 3]
    build_part(options, 2, 3)
    submit_command(str(config), (), None, None, dry_run=False)
    assert "#SBATCH --array=1,3\n" in (tmp_path / "shards.slurm" / "0001" / "parts.sbatch").read_text()
    wait_until((tmp_path / "shards" / "index.json").exists, "the index")
    wait_until(lambda: not sandbox.run("squeue", "--noheader"), "the end of the build")
    difference = ["diff", "--recursive", "--brief", str(tmp_path / "alone"), str(tmp_path / "shards")]
    assert subprocess.run(difference, capture_output=True, text=True).stdout == ""
    submit_command(str(config), (), None, None, dry_run=False)
    assert not sandbox.run("squeue", "--noheader")
