"""`pretrain sync` says what it waits for, and gives up a server that answers nothing."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from small_run import config_for, train

from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.run.lock import RunLock
from pretrain.tracking import sync


class Silent:
    """A server that takes connections and never answers; counts them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []
        Thread(target=self._take, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _take(self) -> None:
        while True:
            self.taken.append(self._socket.accept()[0])


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    for taken in server.taken:
        taken.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    train(config_for(folder, None, steps=3, enabled=False))
    return folder


def test_a_server_that_hangs_is_named_and_asked_once(
    silent: Silent, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(sync, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(sync, "TELL_SECONDS", 0.1)
    with pytest.raises(UserError, match=f"MLflow at {silent.uri} does not take the metrics"):
        sync.sync_command([str(run)], silent.uri)
    assert f"waiting for MLflow at {silent.uri}\n" in capsys.readouterr().err
    assert len(silent.taken) == 1, "a hanging server is not asked again and again"


def test_an_uploader_that_is_waited_for_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sync, "TELL_SECONDS", 0.1)
    folder = RunFolder(run)
    with (
        RunLock.acquire(folder.tracking_lock),
        pytest.raises(UserError, match="its uploader is at work"),
    ):
        sync.catch_up(folder, busy_seconds=1)
    assert capsys.readouterr().err == f"{run}: its uploader is at work; waiting for it, 1 s at most\n"
