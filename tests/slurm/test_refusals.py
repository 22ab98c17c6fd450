"""What `pretrain submit` refuses before anything waits in a queue, and the shipped files that it takes."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import REPOSITORY, write_config
from text_shards import build_shards

from pretrain.config.load import load_config
from pretrain.errors import UserError
from pretrain.folder import RunFolder
from pretrain.tracking.journal import Journal
from slurm.before import doubts, refuse
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
        ({"parallel__tensor": 2, "slurm__nodes": 3}, "no multiple of tensor"),
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
    assert any("nodes must see it" in doubt for doubt in doubts(loaded.config, Tasks(2, 1), run))


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
    submit_command(str(evaluation), ("evaluation.suite=a.yaml",), None, "runs/x", dry_run=True)
    assert 'pretrain eval "$1" --suite=a.yaml' in capsys.readouterr().out
    with pytest.raises(UserError, match=r"slurm.nodes: has no effect on this job"):
        submit_command(str(build), ("slurm.nodes=2",), None, None, dry_run=True)
    with pytest.raises(UserError, match="did you mean 'output'"):
        submit_command(str(build), ("build.ouput=x",), None, None, dry_run=True)


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("config", ["gpt/tiny", "data/build", "data/clean", "data/images", "eval/job"])
def test_shipped_files_give_legal_scripts(
    cluster: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    after = "runs/x" if config == "eval/job" else None
    overrides = ("batch.micro_size=1",) if config == "gpt/tiny" else ()
    path = REPOSITORY / "configs" / f"{config}.yaml"
    submit_command(str(path), overrides, str(cluster), after, dry_run=True)
    script = capsys.readouterr().out
    section = yaml.safe_load(cluster.read_text())["slurm"]
    assert f"#SBATCH --partition={section['partition']}\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
