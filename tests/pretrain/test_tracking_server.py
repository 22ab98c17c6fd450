"""Metrics reach a real MLflow server once, in order and with a true status, whatever dies on the way."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Proxy, Server, free_port
from small_run import config_for, metrics_of, open_run, train

from pretrain.errors import HealthError, UserError
from pretrain.folder import RunFolder
from pretrain.lock import RunLock, is_held
from pretrain.status import actual_status
from pretrain.tracking import background
from pretrain.tracking.evaluations import log_evaluation, log_picture
from pretrain.tracking.journal import read
from pretrain.tracking.record import read_record
from pretrain.tracking.server import make_database
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
    expected: dict[str, list[tuple[int, float]]] = {}
    for entry in read(folder / "metrics.jsonl"):
        for name in entry.keys() - {"step", "time"}:
            expected.setdefault(name, []).append((int(entry["step"]), entry[name]))
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
    history = client(server.uri).get_metric_history(run.info.run_id, "token_perplexity")
    assert [(m.step, m.value) for m in history] == [(50, 12.5), (50, 12.25)]
    assert len(client(server.uri).get_metric_history(run.info.run_id, "fid")) == 1
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
        history = client(server.uri).get_metric_history(sent.mlflow_run, "loss")
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
    assert run.data.metrics["loss"] == metrics_of(int(read(folder / "metrics.jsonl")[-1]["step"]))["loss"]
    subprocess.run([*command[:-2], "100", "200"], stdout=subprocess.DEVNULL, check=True)
    assert run_on(server.uri, folder).info.status == "FINISHED"
    assert len(read(folder / "metrics.jsonl")) == 200
    assert_exactly_once(server.uri, folder)


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
    code = "import sys, pretrain.run, pretrain.tracking.evaluations, pretrain.tracking.sync\n"
    code += "print([name for name in ('mlflow', 'matplotlib', 'torch') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
