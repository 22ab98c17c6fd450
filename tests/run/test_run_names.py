"""Names of run folders: any that a file system takes, on the disk, in configs and in MLflow's URIs."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from config_files import REPOSITORY, write_config
from rich.console import Console
from small_run import config_for, train
from text_shards import build_shards

from evals.result import Result
from pretrain.config.database_uri import database_path, database_uri
from pretrain.config.load import load_config, read_config
from pretrain.config.node import ConfigError
from pretrain.config.resolved import config_to_yaml
from pretrain.run.folder import RunFolder
from pretrain.run.status import read_status, write_status
from pretrain.tracking.compare import compare_command
from pretrain.tracking.plot import LONGEST_TITLE, new_figure, plot_loss_curve
from pretrain.tracking.record import Record, Sent, choose_uri, read_record, write_sent
from pretrain.tracking.sync import sync_command

LATIN = os.fsdecode(b"caf\xe9")
"""As a system wrote it that is not UTF-8."""
ODD = "_lr=1e-3 #2 50%41?x=\u00fc [a]*$x$'\"\n,:"


def pretrain(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pretrain", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["plain", "a b#c", "50%41", "a?b=c&d", ODD])
def test_sqlalchemy_reads_the_name_that_a_uri_means(tmp_path: Path, name: str) -> None:
    from sqlalchemy.engine import make_url

    uri = database_uri(tmp_path / name)
    assert make_url(uri).database == str(tmp_path / name)
    assert database_path(uri) == tmp_path / name


def test_mlflow_finds_a_run_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it lies in the run folder, and nothing beside it under another name."""
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs" / ODD
    folder.mkdir(parents=True)
    train(config_for(folder, None))
    sync_command([str(folder)])
    assert os.listdir(tmp_path / "runs") == [ODD]
    assert {"mlflow.db", "mlartifacts"} <= set(os.listdir(folder))
    client = MlflowClient(database_uri(folder / "mlflow.db"))
    sent = read_record(RunFolder(folder)).servers[0]
    run = client.get_run(str(sent.mlflow_run))
    assert (run.info.status, run.info.run_name) == ("FINISHED", ODD)
    assert run.data.params["run.dir"] == str(folder)
    assert len(client.get_metric_history(run.info.run_id, "loss/loss")) == 50
    [picture] = (folder / "mlartifacts").rglob("loss.png")
    place = client.download_artifacts(run.info.run_id, "loss.png", str(tmp_path))
    assert Path(place).read_bytes() == picture.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name not in ("runs", "loss.png")]


def test_a_relative_database_means_the_same_one_below_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a?b%41").mkdir()
    monkeypatch.chdir(tmp_path / "a?b%41")
    for scheme in ("sqlite", "sqlite+pysqlite"):
        chosen = choose_uri(f"{scheme}:///x%3Fy.db", {}, Record())
        assert database_path(chosen) == tmp_path / "a?b%41" / "x?y.db"


def test_a_question_mark_in_a_uri_is_not_taken_for_a_name(tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.yaml", tracking__uri="sqlite:///runs/lr?x=1/mlflow.db")
    with pytest.raises(ConfigError, match=r"tracking.uri: '\?' begins options, and SQLite has no 'x'; .*%3F"):
        load_config(path)
    load_config(write_config(tmp_path / "a.yaml", tracking__uri="sqlite:///runs/lr%3Fx/m.db?timeout=5"))


@pytest.mark.parametrize("name", [LATIN, "a\nb", "a\tb\x1b", "a$b", " x ", "'", '"', "#a", "[a", "a: b"])
def test_a_config_holds_any_name_and_gives_it_back(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    path = write_config(tmp_path / "a.yaml", run__dir="x", data__train=f"{name}/b")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    loaded = read_config(path, [f'run.dir="{quoted}/a"'.replace("\x1b", "\\e")])
    assert (loaded.config.run.dir, loaded.config.data.train[0].path) == (f"{name}/a", f"{name}/b")
    loaded.text_as_written.encode()
    (tmp_path / "b.yaml").write_text(config_to_yaml(loaded.config), encoding="utf-8")
    assert read_config(str(tmp_path / "b.yaml")).config == loaded.config
    assert yaml.safe_load((tmp_path / "b.yaml").read_bytes())["run"]["dir"] == f"{name}/a"


def test_a_foreign_name_needs_no_quotation_marks(tmp_path: Path) -> None:
    loaded = read_config(write_config(tmp_path / "a.yaml"), [f"run.dir=runs/{LATIN}"])
    assert loaded.config.run.dir == f"runs/{LATIN}"


def test_a_line_end_is_not_folded_into_another_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.dir: YAML makes 'runs/a b' of 'runs/a\\nb'"):
        read_config(write_config(tmp_path / "a.yaml"), ["run.dir=runs/a\nb"])


def test_a_variable_is_refused_and_a_name_with_a_dollar_that_is_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"'\$' are not expanded"):
        read_config(path, ["run.dir=cost$x/a"])
    (tmp_path / "cost$x").mkdir()
    assert read_config(path, ["run.dir=cost$x/a"]).config.run.dir == "cost$x/a"
    assert read_config(path, ["run.dir=5$"]).config.run.dir == "5$"


def test_a_folder_that_mlflow_cannot_keep_is_refused_before_it_is_made(tmp_path: Path) -> None:
    write_config(tmp_path / "a.yaml", run__dir="runs/x")
    for command in ("check", "train"):
        done = pretrain(tmp_path, command, "a.yaml", f"run.dir=runs/{LATIN}")
        assert done.returncode == 2
        assert f"{tmp_path}/runs/caf\\udce9 is not UTF-8, and MLflow finds no files" in done.stderr
    assert os.listdir(tmp_path) == ["a.yaml"]


def test_a_gpt_trains_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """Its checkpoint is saved, scored and named in what is written; other folders lie beside it."""
    data = build_shards(tmp_path / LATIN / "shards", ["0 1 2 3 " * 50] * 6)
    changes = {
        "model": {"kind": "gpt", "num_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
        "batch": {"global_size": 2, "sequence_length": 16},
        "schedule": {"kind": "constant"},
    }
    write_config(
        tmp_path / "a.yaml", run__steps=3, data__train=str(data), tracking__enabled=False,
        data__validation_fraction=0.2, **changes,
    )  # fmt: skip
    run = tmp_path / LATIN / "run"
    done = pretrain(tmp_path, "train", "a.yaml", f"run.dir={LATIN}/run")
    assert done.returncode == 0, done.stderr
    assert f"saved {tmp_path}/caf\\udce9/run/checkpoints/step-00000003" in done.stderr
    again = pretrain(tmp_path, "train", "a.yaml", f"run.dir={LATIN}/run", "run.steps=5")
    assert again.returncode == 0, again.stderr
    scored = pretrain(tmp_path, "eval", str(run), "--json", str(run / f"{LATIN}.json"))
    assert scored.returncode == 0, scored.stderr
    assert (run / f"{LATIN}.json").read_bytes().decode("utf-8").count(r"caf\udce9") > 0
    status = read_status(RunFolder(run))
    assert status is not None and status.state == "finished"
    assert status.datasets[0]["path"] == str(data)
    assert pretrain(tmp_path, "status", str(run)).returncode == 0


def test_what_a_run_writes_of_foreign_names_is_read_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(config_for(folder.path, None, enabled=False))
    status = read_status(folder)
    assert status is not None
    changed = replace(status, facts={"x": LATIN}, datasets=[{"path": f"{LATIN}/\u00fc", "n": [LATIN]}])
    write_status(folder, changed)
    assert read_status(folder) == changed
    write_sent(folder, Sent("run-folder", artifacts={LATIN: "1"}))
    assert read_record(folder).servers[0].artifacts == {LATIN: "1"}


@pytest.mark.parametrize("name", [ODD, f"$\\frac{{$ {LATIN} \x1b", "n" * 200])
def test_a_picture_is_drawn_of_a_run_of_any_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    train(config_for(tmp_path / name, None, enabled=False))
    assert plot_loss_curve(tmp_path / name / "metrics.jsonl", tmp_path / "loss.png", name)
    assert len(new_figure(name, "loss")[1].get_title()) <= 3 + LONGEST_TITLE  # it fits
    compare_command([str(tmp_path / name)], str(tmp_path / "compared.png"))
    assert "[a]*$x$'" in capsys.readouterr().out or name != ODD


def test_scores_are_shown_under_the_name_that_is_on_the_disk() -> None:
    """Brackets are no markup."""
    spec = {"definitions": {"loss": "in nats " * 12}, "summary": "scored x[b]y"}
    console = Console(file=io.StringIO(), width=200)
    Result("runs/[red]a[/]/checkpoints/step-00000001", 1, {"loss": 1.5}, spec).show(console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "runs/[red]a[/]/checkpoints/step-00000001 (step 1)" in said and "scored x[b]y" in said
