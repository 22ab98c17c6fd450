"""The run folder: whom it refuses, and that its lock survives a crash."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from pretrain.errors import UserError
from pretrain.run.folder import RunFolder, write_atomically
from pretrain.run.lock import RunLock, is_held

CONFIG = (
    "model: {kind: gpt}\nrun: {seed: 1, steps: 10}\noptimizer: {lr: 0.001}\nschedule: {decay_steps: 10}\n"
)

HOLDER = """
import sys, time
from pathlib import Path
from pretrain.run.folder import RunFolder
opened = RunFolder(sys.argv[1]).create_or_open("", sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def open_and_release(path: Path, text: str = CONFIG, resume: str = "auto") -> bool:
    opened = RunFolder(path).create_or_open(text, text, resume)
    opened.lock.release()
    return opened.is_new


def begin(path: Path) -> None:
    """As a job that reaches its first step."""
    open_and_release(path)
    (path / "status.json").write_text("{}")


def test_a_new_folder_then_the_same_run(tmp_path: Path) -> None:
    assert open_and_release(tmp_path / "deep" / "run")
    assert not open_and_release(tmp_path / "deep" / "run")
    folder = RunFolder(tmp_path / "deep" / "run")
    assert folder.config.read_text() == folder.resolved.read_text() == CONFIG
    assert folder.checkpoints.is_dir() and folder.rank_log(3).name == "rank-0003.log"


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"run\.dir: .* holds other files but no run \(thesis\.tex\)"):
        open_and_release(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_checkpoints_without_their_config_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with pytest.raises(UserError, match=r"config\.resolved\.yaml is gone"):
        open_and_release(tmp_path)


def test_what_a_crash_while_opening_left_is_accepted(tmp_path: Path) -> None:
    open_and_release(tmp_path)
    (tmp_path / "config.resolved.yaml").rename(tmp_path / ".config.resolved.yaml.0123abcd.tmp")
    assert open_and_release(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_ranks_that_write_at_once_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    texts = {f"{rank}" * 1000 * (rank + 1) for rank in range(4)}

    def write(text: str) -> None:
        for _ in range(50):
            write_atomically(file, text)
            assert file.read_text() in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, texts))
    assert os.listdir(tmp_path) == ["status.json"]


def test_another_run_is_refused_naming_key_and_values(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.001 in the run, 0\.002 now") as caught:
        open_and_release(tmp_path, CONFIG.replace("0.001", "0.002"))
    assert caught.value.exit_code == 2
    assert not is_held(tmp_path / "lock")
    assert RunFolder(tmp_path).resolved.read_text() == CONFIG


def test_a_job_that_never_began_leaves_the_config_free(tmp_path: Path) -> None:
    open_and_release(tmp_path)
    other = CONFIG.replace("0.001", "0.002")
    assert not open_and_release(tmp_path, other)
    assert RunFolder(tmp_path).resolved.read_text() == other
    (tmp_path / "checkpoints" / "step-00000010").mkdir()
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        open_and_release(tmp_path)


def test_a_legal_change_is_reported(tmp_path: Path) -> None:
    begin(tmp_path)
    changed = CONFIG.replace("steps: 10}\nopt", "steps: 20}\nopt")
    opened = RunFolder(tmp_path).create_or_open(changed, changed)
    opened.lock.release()
    assert opened.changes == {"run.steps": (10, 20)}
    assert RunFolder(tmp_path).resolved.read_text() == CONFIG, "the job may still be refused"
    opened.accept()
    assert RunFolder(tmp_path).resolved.read_text() == changed


def test_resume_never_is_refused_where_checkpoints_are(tmp_path: Path) -> None:
    assert open_and_release(tmp_path, resume="never")
    (tmp_path / "checkpoints" / "step-00000010").mkdir()
    with pytest.raises(UserError, match=r"run\.resume: never, but .*checkpoints"):
        open_and_release(tmp_path, resume="never")


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "config.resolved.yaml").write_text("run: [")
    with pytest.raises(UserError, match=r"config\.resolved\.yaml is damaged"):
        open_and_release(tmp_path)


def test_a_file_in_the_way_and_a_folder_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match="cannot write the run folder"):
            open_and_release(path)


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.resolved\.yaml"):
        RunFolder(tmp_path).require_run()
    with pytest.raises(UserError, match="does not exist"):
        RunFolder(tmp_path / "none").require_run()


def test_a_second_job_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), CONFIG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        lock = tmp_path / "run" / "lock"
        assert is_held(lock)
        with pytest.raises(UserError, match=f"being written by another job: pid {holder.pid} on ") as caught:
            RunLock.acquire(lock, patience=0.1)
        assert "started 20" in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not open_and_release(tmp_path / "run")  # no waiting for any time-out
    assert not is_held(lock)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path / "lock")
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready[0])
        os.write(ready[1], b"x")
        os.close(done[1])
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    assert not is_held(tmp_path / "lock")
    os.close(done[1])
    os.waitpid(child, 0)


def test_looking_at_a_lock_does_not_refuse_a_job(tmp_path: Path) -> None:
    RunLock.acquire(tmp_path / "lock").release()
    probe = "import sys\nfrom pathlib import Path\nfrom pretrain.run.lock import is_held\n"
    probe += "for _ in range(20000): is_held(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", probe, str(tmp_path / "lock")]) as prober:
        while prober.poll() is None:
            RunLock.acquire(tmp_path / "lock").release()


HOLDS = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(20)
"""


def test_a_lock_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read it may hold it; and a command line may hold a password."""
    monkeypatch.setattr(
        sys, "argv", ["pretrain", "train", "tracking.uri=http://me:hunter2@host/?token=abc123"]
    )
    lock = tmp_path / "lock"
    lock.touch(0o644)  # an older version's
    with RunLock.acquire(lock):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        with pytest.raises(
            UserError, match=r"\(pretrain train tracking.uri=http://\*\*\*@host/\?token=\*\*\*\)"
        ):
            RunLock.acquire(lock, patience=0)
        assert not {"hunter2", "abc123"} & set(re.findall(r"\w+", lock.read_text()))


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
def test_who_holds_a_lock_without_having_taken_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last taker is dead: the message must not name it as the one who writes."""
    lock = tmp_path / "lock"
    done = [sys.executable, "-c", HOLDER, str(tmp_path), CONFIG]
    with subprocess.Popen(done, stdout=subprocess.PIPE, text=True) as last:
        assert last.stdout is not None and last.stdout.readline() == "held\n"
        last.kill()
    holds = [sys.executable, "-c", HOLDS, str(lock)]
    with subprocess.Popen(holds, stdout=subprocess.PIPE, text=True) as thief:
        assert thief.stdout is not None and thief.stdout.readline() == "held\n"
        named = f"held by pid {thief.pid} of user {os.getuid()} on this host"
        with pytest.raises(UserError, match=rf"{named} \(taken last by pid {last.pid} on"):
            RunLock.acquire(lock, patience=0.1)
        lock.write_text("")
        with pytest.raises(UserError, match=r"of user \d+ on this host \(nobody has said its name\)"):
            RunLock.acquire(lock, patience=0.1)
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": 1.0, "command": "c"}))
        with pytest.raises(UserError, match=rf"{named} \(taken last by pid 7 on elsewhere"):
            RunLock.acquire(lock, patience=0.1)
        monkeypatch.setattr(
            "pretrain.run.lock._holders", lambda path: []
        )  # as where another host has the lock
        with pytest.raises(UserError, match="being written by another job: pid 7 on elsewhere"):
            RunLock.acquire(lock, patience=0.1)
        thief.kill()


def test_who_may_not_look_at_a_lock_takes_it_for_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    refuse = mock.Mock(side_effect=PermissionError)
    monkeypatch.setattr(os, "open", refuse)
    assert is_held(tmp_path / "lock")
