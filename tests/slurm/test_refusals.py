"""What `pretrain submit` refuses before anything waits in a queue, and the shipped files that it takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import REPOSITORY, SMALL, write_config
from gan_configs import gan_tree
from text_shards import build_shards

from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.tracking.journal import Journal
from slurm.before import refuse, warnings_of
from slurm.submission import new_submission
from slurm.submit import submit_command
from slurm.tasks import Tasks

CLUSTERS = sorted((REPOSITORY / "configs" / "cluster").glob("*.yaml"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(
        tmp_path_factory.mktemp("data") / "shards", [f"text {number} " * 9 for number in range(40)]
    )


def submit(folder: Path, *overrides: str, after: str | None = None, **changes: Any) -> None:
    path = write_config(folder / "config.yaml", run__dir=str(folder / "run"), **changes)
    submit_command(path, overrides, None, after, dry_run=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train": "nowhere"}, "there is no such directory"),
        ({"parallel__tensor": 2, "slurm__nodes": 3}, "not a multiple of tensor"),
        ({"slurm__python": "/no/python"}, "slurm.python: there is no program /no/python"),
        ({"slurm__container": "apptainer", "slurm__container_image": "/no.sif"}, "/no.sif does not exist"),
        ({"run__resume": "never"}, "a requeued job must go on from its checkpoints"),
        ({"slurm__time": "soon"}, "must be a time such as 12:00:00"),
        ({"slurm__environment": ["no assignment"]}, "must be NAME=value"),
        ({"slurm__modules": "cuda"}, "must be a list of texts"),
    ],
)
def test_what_could_not_run_is_refused(
    tmp_path: Path, shards: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refusal:
        submit(tmp_path, **({"data__train": str(shards)} | changes))
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_limit_shorter_than_a_checkpoint_interval_is_refused(tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "config.yaml", run__dir=str(tmp_path), checkpoint__every=100, slurm__time="00:30:00"
    )
    run, loaded = RunFolder(tmp_path), load_config(path)
    refuse(loaded, run)
    journal = Journal(run.metrics)
    for step in range(1, 5):
        journal.append(step, {"tokens_per_second": 1.0}, when=60.0 * step)
    journal.close()
    with pytest.raises(UserError, match=r"less than the 6,000 s .* \(nearest legal: checkpoint.every 15\)"):
        refuse(loaded, run)
    assert any("nodes must see it" in doubt for doubt in warnings_of(loaded.config, Tasks(2, 1), run))


def test_each_file_is_taken_for_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--after runs/x: is for an evaluation"):
        submit(tmp_path, after="runs/x")
    evaluation, build = (
        REPOSITORY / "configs" / "eval" / "job.yaml",
        REPOSITORY / "configs" / "data" / "build.yaml",
    )
    with pytest.raises(UserError, match="name the run to evaluate"):
        submit_command(str(evaluation), (), None, None, dry_run=True)
    with pytest.raises(UserError, match="does not exist"):
        submit_command(str(evaluation), (), None, str(tmp_path / "no"), dry_run=False)
    with pytest.raises(UserError, match=r"evaluation\.stride has no effect with evaluation\.suite"):
        asked = ("evaluation.suite=a.yaml", "evaluation.stride=4")
        submit_command(str(evaluation), asked, None, "runs/x", dry_run=True)
    with pytest.raises(UserError, match="x does not exist"):
        submit_command(str(evaluation), ("evaluation.suite=a.yaml",), None, "runs/x", dry_run=True)
    assert 'pretrain eval "$1" --suite=a.yaml' in capsys.readouterr().out
    with pytest.raises(UserError, match=r"slurm.nodes: has no effect on this job"):
        submit_command(str(build), ("slurm.nodes=2",), None, None, dry_run=True)
    with pytest.raises(UserError, match="did you mean 'output'"):
        submit_command(str(build), ("build.ouput=x",), None, None, dry_run=True)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    changes = {"data__train": str(tmp_path / "no"), "run__resume": "never", "slurm__python": "/no/python"}
    with pytest.raises(UserError) as refusal:
        submit(tmp_path, **changes)
    told = str(refusal.value)
    for message in ("3 problems", f"{tmp_path}/no", "there is no program /no/python", "a requeued job must"):
        assert message in told, told


@pytest.mark.slow
def test_a_dry_run_ends_as_the_submission_would(tmp_path: Path, shards: Path) -> None:
    """The script on stdout is whole, and what is wrong follows on stderr with the same code."""
    path = write_config(
        tmp_path / "config.yaml",
        run__dir=str(tmp_path / "run"),
        data__train=str(shards),
        checkpoint__every=50,
        slurm__container="apptainer",
        slurm__container_image=str(tmp_path / "no.sif"),
    )
    command = [sys.executable, "-m", "pretrain", "submit", path, "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("#!/bin/bash\n") and done.stdout.endswith("finish $? train\n")
    assert f"slurm.container_image: {tmp_path}/no.sif does not exist" in done.stderr
    assert done.returncode == 2
    (tmp_path / "no.sif").touch()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def sent_run(folder: Path, tree: dict[str, Any]) -> Path:
    """A run that has saved once, by its submission's config."""
    path = folder / "sent.yaml"
    path.write_text(yaml.safe_dump(tree | {"run": {"dir": str(folder / "run"), "steps": 4}}))
    submission = new_submission(folder / "run")
    submission.config.write_text(config_to_yaml(load_config(str(path)).config))
    checkpoint = folder / "run/checkpoints/step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    return folder / "run"


GPT = {key: value for key, value in SMALL.items() if key != "run"}
SPLIT = GPT | {"data": {"train": "data/small", "validation_fraction": 0.1}}
GAN = {key: value for key, value in gan_tree(data__train="pictures").items() if key != "run"}


@pytest.mark.parametrize(
    ("tree", "asked", "message"),
    [
        (GAN, {}, "evaluation.extractor: a generator's images are compared by features: name one extractor"),
        (GAN, {"extractor": "cnn"}, "evaluation.extractor: cnn does not exist"),
        (GAN, {"extractor": "run"}, "evaluation.extractor: run is a gan, not a classifier of images"),
        (GAN, {"inception_weights": "no.pt"}, "evaluation.inception_weights: no.pt does not exist"),
        (GAN, {"extractor": "run", "stride": 8}, "evaluation.stride: has no effect on a gan"),
        (GAN, {"suite": "suite.yaml"}, "task 1, perplexity, is for model.kind gpt or rnn, not gan"),
        (SPLIT, {"suite": "masked.yaml"}, "task 1, masked, is for model.kind bert, not gpt"),
        (SPLIT, {"suite": "no.yaml"}, "no.yaml"),
        (SPLIT, {"suite": "suite.yaml"}, "evaluation.suite: suite.yaml: tasks.0.data: shards does not exist"),
        (SPLIT, {"samples": 8}, "evaluation.samples: has no effect on a gpt"),
        (SPLIT, {"data": ["no"]}, "evaluation.data: no does not exist"),
        (GPT, {}, "evaluation.data: the run has no validation data; name what to score"),
    ],
)
def test_an_evaluation_that_cannot_work_is_not_queued(
    tmp_path: Path,
    tree: dict[str, Any],
    asked: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = sent_run(tmp_path, tree)
    Path("suite.yaml").write_text("tasks: [{task: perplexity, data: shards}]\n")
    Path("masked.yaml").write_text("tasks: [{task: masked}]\n")
    Path("job.yaml").write_text(yaml.safe_dump({"evaluation": asked, "slurm": {"nodes": 1}}))
    for dry_run in (True, False):
        with pytest.raises(UserError) as refusal:
            submit_command("job.yaml", (), None, str(run), dry_run=dry_run)
        assert message in str(refusal.value)
        assert capsys.readouterr().out.startswith("#!/bin/bash") == dry_run
    assert [path.name for path in (run / "slurm").iterdir()] == ["0001"]


def test_an_evaluation_that_can_work_is_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sent_run(tmp_path, SPLIT)
    for evaluation in ({}, {"stride": 8}, {"data": ["s3://bucket/shards"]}, {"every_checkpoint": True}):
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({"evaluation": evaluation, "slurm": {"nodes": 1}}))
        submit_command(str(path), (), None, str(run), dry_run=True)
        assert "pretrain eval" in capsys.readouterr().out


def test_a_run_that_has_nothing_to_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no checkpoint, and its job has ended; without Slurm nobody can know that."""
    run, path = sent_run(tmp_path, SPLIT), tmp_path / "job.yaml"
    (run / "checkpoints/step-000002/manifest.json").unlink()
    path.write_text("evaluation: {}\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'JobId=7 JobState=FAILED Reason=None'\n")
    (tmp_path / "scontrol").chmod(0o755)
    new_submission(run).sent("7")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        with pytest.raises(UserError, match="the run has no checkpoint, and no job of it waits or runs"):
            submit_command(str(path), (), None, str(run), dry_run=True)
        submit_command(str(path), ("evaluation.every_checkpoint=true",), None, str(run), dry_run=True)
    monkeypatch.setenv("PATH", str(run))
    submit_command(str(path), (), None, str(run), dry_run=True)


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("config", ["gpt/tiny", "data/build", "data/clean", "data/images", "eval/job"])
def test_shipped_files_give_legal_scripts(
    cluster: Path,
    config: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where there is no data, the script is followed by what is refused, as without --dry-run."""
    monkeypatch.chdir(tmp_path)
    after = "runs/x" if config == "eval/job" else None
    overrides = ("batch.micro_size=1",) if config == "gpt/tiny" else ()
    path = REPOSITORY / "configs" / f"{config}.yaml"
    with pytest.raises(
        UserError,
        match=r"no such (file or )?directory|nothing there matches|does not exist|not a tokenizer directory",
    ) as told:
        submit_command(str(path), overrides, str(cluster), after, dry_run=True)
    with pytest.raises(UserError) as refused:
        submit_command(str(path), overrides, str(cluster), after, dry_run=False)
    assert str(told.value) == str(refused.value)
    assert not list(tmp_path.iterdir())
    script = capsys.readouterr().out
    section = yaml.safe_load(cluster.read_text())["slurm"]
    assert f"#SBATCH --partition={section['partition']}\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
