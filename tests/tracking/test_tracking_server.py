"""Metrics reach a real MLflow server once, in order and with a true status, whatever dies on the way."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Proxy, Server, free_port
from small_run import config_for, metrics_of, open_run, train

from pretrain.errors import HealthError, StoppedEarly, UserError
from pretrain.run.folder import RunFolder
from pretrain.run.lock import RunLock, is_held
from pretrain.run.status import actual_status
from pretrain.tracking import evaluations
from pretrain.tracking import uploader_process as background
from pretrain.tracking.evaluations import log_evaluation, log_picture
from pretrain.tracking.journal import read
from pretrain.tracking.names import as_it_is, of_journal
from pretrain.tracking.record import read_record, write_sent
from pretrain.tracking.server import NAMES_TAG, RUN_TAG, make_database
from pretrain.tracking.sync import catch_up, sync_command

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow")]

SCRIPT = Path(__file__).parents[1] / "small_run.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for its uploader at the end, which gives way to everything else on the machine."""
    monkeypatch.setattr(background, "FINISH_SECONDS", 300.0)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def test_a_database_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    code = "import os, pathlib, signal, sys; from pretrain.tracking.server import make_database\n"
    code += "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "make_database(pathlib.Path(sys.argv[1]))"
    maker = subprocess.run([sys.executable, "-c", code, str(database)], check=False)
    assert maker.returncode == -signal.SIGKILL and not database.exists()
    [left] = tmp_path.iterdir()
    os.truncate(left, left.stat().st_size // 2)
    make_database(database)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    made = client(f"sqlite:///{database}").create_experiment("x")
    make_database(database)  # keeps what is there
    assert client(f"sqlite:///{database}").get_experiment_by_name("x").experiment_id == made


def run_on(server_uri: str, folder: Path) -> Any:
    sent = read_record(RunFolder(folder)).servers[0]
    assert sent.mlflow_run is not None
    return client(server_uri).get_run(sent.mlflow_run)


def assert_exactly_once(server_uri: str, folder: Path) -> None:
    """Every metric of the journal is in MLflow once, with its value and in order; nothing else is."""
    run = run_on(server_uri, folder)
    name_of = of_journal if NAMES_TAG in run.data.tags else as_it_is
    expected: dict[str, list[tuple[int, float]]] = {}
    for entry in read(folder / "metrics.jsonl"):
        for name in entry.keys() - {"step", "time"}:
            expected.setdefault(name_of(name), []).append((int(entry["step"]), entry[name]))
    assert {name for name in run.data.metrics if not name.startswith("system/")} == set(expected)
    for name, points in expected.items():
        history = client(server_uri).get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == points
    found = client(server_uri).search_runs(
        [run.info.experiment_id], f"attributes.run_name = '{run.info.run_name}'"
    )
    assert len(found) == 1


def wait_for(condition: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def uploader_is_gone(folder: Path) -> bool:
    return not is_held(RunFolder(folder).tracking_lock)


def test_one_run_with_everything(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "everything"
    config = config_for(folder, server.uri, experiment="gpt")
    train(config)
    assert_exactly_once(server.uri, folder)
    run = run_on(server.uri, folder)
    assert run.info.status == "FINISHED" and run.info.run_name == "everything"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["data.train.0.path"] == "shards"
    assert run.data.params["model.rotary_base"] == "null"
    tags = run.data.tags
    assert tags["state"] == "finished" and tags["data_fingerprint"] == "abc" and "version.torch" in tags
    status = actual_status(RunFolder(folder))
    assert status is not None and run.info.end_time == int(status.time * 1000)
    names = {item.path for item in client(server.uri).list_artifacts(run.info.run_id)}
    assert names == {"config.yaml", "config.resolved.yaml", "loss.png"}
    assert (folder / "artifacts" / "loss.png").read_bytes().startswith(b"\x89PNG")
    experiment = client(server.uri).get_experiment(run.info.experiment_id)
    assert experiment.name == "gpt"


def test_evaluations_join_the_run_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "evaluated"
    train(config_for(folder, server.uri))
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "sample.png").write_bytes(b"\x89PNG")
    assert log_evaluation(
        folder, 50, {"token_perplexity": 12.5, "fid": float("inf")}, [tmp_path / "report.json"]
    )
    assert log_evaluation(folder, 50, {"token_perplexity": 12.25, "fid": float("inf")})
    assert log_picture(folder, tmp_path / "sample.png")
    run = run_on(server.uri, folder)
    history = client(server.uri).get_metric_history(run.info.run_id, "scores/token_perplexity")
    assert [(m.step, m.value) for m in history] == [(50, 12.5), (50, 12.25)]
    assert len(client(server.uri).get_metric_history(run.info.run_id, "scores/fid")) == 1
    assert run.info.status == "FINISHED"
    names = {item.path for item in client(server.uri).list_artifacts(run.info.run_id)}
    assert {"sample.png", "step-00000050"} <= names
    with RunLock.acquire(RunFolder(folder).tracking_lock):  # by an uploader that does not see it any more
        assert catch_up(RunFolder(folder), busy_seconds=0.3)[1] is None
        (folder / "artifacts" / "late.png").write_bytes(b"\x89PNG")
        with pytest.raises(UserError, match="its uploader is at work"):
            catch_up(RunFolder(folder), busy_seconds=0.3)
    with pytest.raises(UserError, match="metric 'a=b'"):
        log_evaluation(folder, 50, {"a=b": 1.0})
    with pytest.raises(UserError, match="does not exist"):
        log_evaluation(tmp_path / "none", 50, {})


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    with pytest.raises(HealthError), open_run(config_for(folder, server.uri, steps=60)) as run:
        run.begin(0)
        for step in range(1, 41):
            run.log_step(step, metrics_of(step))
        raise HealthError("loss is NaN at step 41")
    mlflow_run = run_on(server.uri, folder)
    assert mlflow_run.info.status == "FAILED"
    assert mlflow_run.data.tags["reason"] == "loss is NaN at step 41"
    assert mlflow_run.data.tags["exit_code"] == "4"
    train(config_for(folder, server.uri, steps=60, experiment="pretrain"), start=30)
    assert run_on(server.uri, folder).info.run_id == mlflow_run.info.run_id
    assert run_on(server.uri, folder).info.status == "FINISHED"
    assert run_on(server.uri, folder).data.tags["jobs"] == "2"
    assert_exactly_once(server.uri, folder)


def test_curves_are_the_journals_after_the_run_took_another_course(server: Server, tmp_path: Path) -> None:
    """A rollback within a job, and a resume that gives up steps: what was sent of them is gone."""
    folder = tmp_path / "course"

    def sent_is(step: int, value: float) -> bool:
        sent = next(iter(read_record(RunFolder(folder)).servers), None)
        if sent is None or sent.mlflow_run is None:
            return False
        history = client(server.uri).get_metric_history(sent.mlflow_run, "loss/loss")
        return (step, value) in [(m.step, m.value) for m in history]

    with pytest.raises(HealthError), open_run(config_for(folder, server.uri, steps=40)) as run:
        run.begin(0)
        for step in range(1, 31):
            run.log_step(step, metrics_of(step))
        wait_for(lambda: sent_is(30, 1 + 1 / 30))
        first = run_on(server.uri, folder).info.run_id
        run.rewind(20)
        for step in range(21, 36):
            run.log_step(step, metrics_of(step) | {"loss": 3 - step / 100, "rollbacks": 1})
        wait_for(lambda: sent_is(35, 3 - 35 / 100))
        assert_exactly_once(server.uri, folder)
        raise HealthError("updates were skipped")
    assert run_on(server.uri, folder).info.run_id != first
    assert client(server.uri).get_run(first).info.lifecycle_stage == "deleted"
    assert_exactly_once(server.uri, folder)
    with open_run(config_for(folder, server.uri, steps=40)) as run:
        run.begin(18, other_course=True)
        for step in range(19, 41):
            run.log_step(step, metrics_of(step) | {"loss": 2 - step / 100})
    assert_exactly_once(server.uri, folder)
    run = run_on(server.uri, folder)
    assert run.info.status == "FINISHED" and run.data.params["run.steps"] == "40"
    names = {item.path for item in client(server.uri).list_artifacts(run.info.run_id)}
    assert names == {"config.yaml", "config.resolved.yaml", "loss.png"}


def test_the_uploader_is_killed_in_mid_send_and_answers_get_lost(proxy: Proxy, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    proxy.delay = 0.3
    proxy.lose = [b"runs/create"]
    command = [sys.executable, str(SCRIPT), str(folder), proxy.uri, "0", "2000", str(tmp_path / "go on")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        wait_for(lambda: any(sent.offset for sent in read_record(RunFolder(folder)).servers))
        seen = proxy.answers
        wait_for(lambda: proxy.answers > seen)
        os.kill(_uploader_pid(folder), signal.SIGKILL)  # it waits for an answer most of the time
        wait_for(lambda: is_held(RunFolder(folder).tracking_lock))
        (tmp_path / "go on").touch()
        proxy.delay = 0.0
        proxy.lose = [b"runs/log-batch", b"metrics/get-history", b"runs/update"]
        trainer.stdout.read()
    assert trainer.returncode == 0
    wait_for(lambda: uploader_is_gone(folder))
    sync_command([str(folder)])
    log = (folder / "logs" / "rank-0000.log").read_text()
    assert "the MLflow uploader died (exit code -9" in log
    assert (folder / "logs" / "tracking.log").read_text().count("not sent") >= 3
    assert proxy.lose == []
    assert_exactly_once(proxy.uri, folder)
    assert run_on(proxy.uri, folder).info.status == "FINISHED"


def test_a_killed_trainer_is_failed_in_mlflow_until_it_is_resumed(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "crashed"
    command = [sys.executable, str(SCRIPT), str(folder), server.uri, "0", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        while trainer.stdout.readline() != "120\n":
            pass
        trainer.send_signal(signal.SIGKILL)
    status = actual_status(RunFolder(folder))
    assert status is not None and status.state == "crashed"
    wait_for(lambda: read_record(RunFolder(folder)).servers and uploader_is_gone(folder))
    run = run_on(server.uri, folder)
    assert run.info.status == "FAILED" and run.data.tags["state"] == "crashed"
    last = int(read(folder / "metrics.jsonl")[-1]["step"])
    assert run.data.metrics["loss/loss"] == metrics_of(last)["loss"]
    subprocess.run([*command[:-2], "100", "200"], stdout=subprocess.DEVNULL, check=True)
    assert run_on(server.uri, folder).info.status == "FINISHED"
    assert len(read(folder / "metrics.jsonl")) == 200
    assert_exactly_once(server.uri, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_run_that_will_go_on_is_scheduled(server: Server, tmp_path: Path, number: int) -> None:
    folder = tmp_path / f"signal-{number}"
    config = config_for(folder, server.uri, steps=40)
    with pytest.raises(StoppedEarly), open_run(config) as run:
        run.begin(0)
        for step in range(1, 21):
            run.log_step(step, metrics_of(step))
        os.kill(os.getpid(), number)
        raise run.stopped(20, run.pending())
    stopped = run_on(server.uri, folder)
    name = signal.Signals(number).name
    assert (stopped.info.status, stopped.info.end_time) == ("SCHEDULED", None)
    assert stopped.data.tags["reason"].startswith(
        f"stopped by {name} at step 20 of 40 with a checkpoint saved"
    )
    assert log_evaluation(folder, 20, {"token_perplexity": 12.5})  # it is still to go on
    assert run_on(server.uri, folder).info.status == "SCHEDULED"
    with open_run(config) as run:
        run.begin(20)
        wait_for(lambda: run_on(server.uri, folder).info.status == "RUNNING")
        assert run_on(server.uri, folder).data.tags["reason"] == ""
        for step in range(21, 41):
            run.log_step(step, metrics_of(step))
    assert run_on(server.uri, folder).info.status == "FINISHED"


def test_an_interrupted_run_is_killed(server: Server, tmp_path: Path) -> None:
    """By the second ctrl-C: what it did is not saved, and nothing goes on by itself."""
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt), open_run(config_for(folder, server.uri)) as run:
        run.begin(0)
        run.log_step(1, metrics_of(1))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert run_on(server.uri, folder).info.status == "KILLED"


def test_an_mlflow_run_keeps_the_names_that_it_began_with(server: Server, tmp_path: Path) -> None:
    """One that began before names had groups; on another server, and on another course, it gets groups."""
    folder = tmp_path / "flat"
    with pytest.raises(HealthError), open_run(config_for(folder, server.uri, enabled=False)) as run:
        run.begin(0)
        for step in range(1, 31):
            run.log_step(step, metrics_of(step))
        raise HealthError("a spike")
    old = client(server.uri).create_experiment("before groups")
    begun = client(server.uri).create_run(old, tags={RUN_TAG: run.id}, run_name="flat").info.run_id
    for step in range(1, 21):
        for name, value in metrics_of(step).items():
            client(server.uri).log_metric(begun, name, value, step=step)
    train(config_for(folder, server.uri, experiment="before groups"), start=30)
    assert log_evaluation(folder, 50, {"token_perplexity": 12.5})
    names = set(run_on(server.uri, folder).data.metrics)
    assert run_on(server.uri, folder).info.run_id == begun
    assert {name for name in names if "/" in name and not name.startswith("system/")} == set()
    assert {"loss", "validation_loss", "token_perplexity"} <= names
    assert "began without groups of metrics" in (folder / "logs" / "tracking.log").read_text()
    for name in ("loss", "lr"):
        history = client(server.uri).get_metric_history(begun, name)
        assert sorted(m.step for m in history) == list(range(1, 51))
    elsewhere = f"sqlite:///{tmp_path / 'other.db'}"
    sync_command([str(folder)], uri=elsewhere)
    (there,) = [sent for sent in read_record(RunFolder(folder)).servers if sent.uri == elsewhere]
    assert {"loss/loss", "scores/token_perplexity"} <= set(
        client(elsewhere).get_run(there.mlflow_run).data.metrics
    )
    with open_run(config_for(folder, server.uri, experiment="before groups")) as run:
        run.begin(40, other_course=True)
        for step in range(41, 51):
            run.log_step(step, metrics_of(step))
    assert run_on(server.uri, folder).info.run_id != begun
    names = set(run_on(server.uri, folder).data.metrics)
    assert {"loss/loss", "scores/token_perplexity"} <= names and "loss" not in names


def test_nothing_is_said_to_be_missing_that_is_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An uploader that is slow to begin, or to leave, while MLflow has everything; then what it lacks."""
    folder = RunFolder(tmp_path / "everything-sent")
    train(config_for(folder.path, server.uri))
    monkeypatch.setattr(background, "FINISH_SECONDS", 0.0)
    slow = background.UploaderProcess(folder)
    assert slow.finish() and not caplog.records
    wait_for(lambda: slow._process is not None and slow._process.poll() is not None)
    (folder.artifacts / "late.png").write_bytes(b"\x89PNG")
    sent = read_record(folder).servers[0]
    write_sent(folder, replace(sent, offset=sent.offset - 7, complete="", state=""))
    slow = background.UploaderProcess(folder)
    with caplog.at_level("INFO"):
        assert not slow.finish()
    [record] = caplog.records
    size = folder.metrics.stat().st_size
    assert record.levelname == "INFO" and record.getMessage().startswith(
        f"MLflow does not have yet: 7 of {size:,} bytes of metrics.jsonl, late.png, how the run ended, its "
        "curves as pictures; sending goes on in the background"
    )
    wait_for(lambda: slow._process is not None and slow._process.poll() is not None)
    assert slow.finish()
    caplog.clear()
    monkeypatch.setattr(evaluations, "SEND_SECONDS", 0.0)
    assert evaluations.send_evaluations(folder.path) and not caplog.records
    assert not log_evaluation(folder.path, 50, {"fid": 2.0})
    [record] = caplog.records
    size = folder.evaluations.stat().st_size
    assert record.getMessage().startswith(
        f"MLflow does not have yet: {size} of {size} bytes of evaluations.jsonl (see"
    )


def test_a_slow_server_slows_nothing(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "slow"
    monkeypatch.setattr(background, "FINISH_SECONDS", 1.0)
    proxy.delay = 20.0
    with open_run(config_for(folder, proxy.uri, steps=300)) as run:
        run.begin(0)
        costs = []
        for step in range(1, 301):
            before = time.perf_counter()
            run.log_step(step, metrics_of(step))
            costs.append(time.perf_counter() - before)
            time.sleep(0.01)
        ended = time.monotonic()
    assert time.monotonic() - ended < 18
    assert statistics.median(costs) < 1e-3
    assert "`pretrain sync " in (folder / "logs" / "rank-0000.log").read_text()
    proxy.delay = 0.0
    sync_command([str(folder)])
    wait_for(lambda: uploader_is_gone(folder))
    assert_exactly_once(proxy.uri, folder)
    assert run_on(proxy.uri, folder).info.status == "FINISHED"


def test_a_server_that_is_down_at_the_start_and_dies_in_between(
    server: Server,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(background, "FINISH_SECONDS", 1.0)
    folder = tmp_path / "down"
    proxy.is_down = True
    with pytest.raises(HealthError), open_run(config_for(folder, proxy.uri, steps=400)) as run:
        run.begin(0)
        for step in range(1, 101):
            run.log_step(step, metrics_of(step))
        wait_for(lambda: "not sent" in (folder / "logs" / "tracking.log").read_text())
        proxy.is_down = False
        wait_for(lambda: any(sent.offset for sent in read_record(RunFolder(folder)).servers))
        server.stop()
        for step in range(101, 301):
            run.log_step(step, metrics_of(step))
        raise HealthError("a spike")
    os.kill(_uploader_pid(folder), signal.SIGTERM)
    wait_for(lambda: uploader_is_gone(folder))
    with pytest.raises(UserError, match="does not take the metrics"):
        sync_command([str(folder)])
    server.start()
    sync_command([str(folder)])
    sync_command([str(folder)])
    assert ": 0 new values sent" in capsys.readouterr().out.splitlines()[-1]
    assert_exactly_once(server.uri, folder)
    assert run_on(server.uri, folder).info.status == "FAILED"


def test_nothing_set_means_a_database_in_the_run_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "local"
    train(config_for(folder, None))
    local = f"sqlite:///{folder / 'mlflow.db'}"
    assert_exactly_once(local, folder)
    assert run_on(local, folder).info.status == "FINISHED"
    assert list((folder / "mlartifacts").rglob("loss.png"))
    # The same run on another server, from a machine that reaches it.
    sync_command([str(folder)], uri=server.uri)
    sync_command([str(folder)], uri=server.uri)
    lines = capsys.readouterr().out.splitlines()
    assert ": 202 new values sent" in lines[-2] and ": 0 new values sent" in lines[-1]
    (there,) = [sent for sent in read_record(RunFolder(folder)).servers if sent.uri == server.uri]
    assert client(server.uri).get_run(there.mlflow_run).info.status == "FINISHED"


def test_secrets_stay_out_of_logs_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FINISH_SECONDS", 0.5)
    folder = tmp_path / "secret"
    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    train(config_for(folder, uri))
    wait_for(lambda: (folder / "tracking.json").exists())
    wait_for(lambda: os.kill(_uploader_pid(folder), signal.SIGTERM) is None)
    wait_for(lambda: uploader_is_gone(folder))
    assert "not sent" in (folder / "logs" / "tracking.log").read_text()
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("config.")]
    assert len(files) > 5 and [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert json.loads((folder / "tracking.json").read_text())["servers"][0]["uri"].startswith("http://***@")


def _uploader_pid(folder: Path) -> int:
    return int(json.loads((folder / "logs" / "tracking.lock").read_text())["pid"])


def test_training_does_not_import_mlflow() -> None:
    code = "import sys, pretrain.training.session, pretrain.tracking.evaluations, pretrain.tracking.sync\n"
    code += "print([name for name in ('mlflow', 'matplotlib', 'torch') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
