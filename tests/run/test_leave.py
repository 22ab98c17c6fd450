"""A process whose work is done ends with its own exit code, whatever torch's threads do in that moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ABORTS = """
import sys, threading, time
from datetime import timedelta
from pretrain.run.exit import run_and_exit
from torch.distributed import HashStore

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(3)  # an interpreter that takes its time over its finalization

def main():
    # As gloo's threads do: torch's code that takes the interpreter's lock again while that is taken away.
    store = HashStore()
    seconds = 60 if sys.argv[1] == "leave" else 1
    waits = lambda: store.wait(["never"], timedelta(seconds=seconds))
    threading.Thread(target=waits, daemon=True).start()
    time.sleep(0.2)
    print("done")

slow = Slow()
run_and_exit(main) if sys.argv[1] == "leave" else main()
"""

ENDS = """
import atexit, logging, sys, tempfile, threading, time
from pathlib import Path
from pretrain.run.exit import run_and_exit

folder = tempfile.TemporaryDirectory(dir=sys.argv[1])

written = threading.Event()

def late():
    written.wait()
    time.sleep(0.5)
    {late}
    print("thread", end=" ")

def main():
    threading.Thread(target=late).start()
    atexit.register(print, "atexit", end=" ")
    print("main", end=" ")
    written.set()
    {end}

run_and_exit(main)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_what_torch_does_in_the_last_moment_changes_nothing() -> None:
    for _ in range(5):  # the thread's second may be over before its time, where the machine is busy
        aborted = python(ABORTS, "return")
        if aborted.returncode:
            break
    left = python(ABORTS, "leave")
    assert aborted.returncode == -signal.SIGABRT, "the fault that this is for is not there any more"
    assert "terminate called without an active exception" in aborted.stderr
    assert (left.returncode, left.stdout, left.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('why')", 1, "why\n"),
        ("raise ValueError('bug')", 1, "ValueError: bug\n"),
        ("raise KeyboardInterrupt", 130, "pretrain: error: interrupted\n"),
    ],
)
def test_all_that_python_promises_is_done(tmp_path: Path, end: str, code: int, told: str) -> None:
    done = python(ENDS.format(end=end, late="pass"), str(tmp_path))
    assert done.returncode == code
    assert done.stdout == "main thread atexit "
    assert done.stderr.endswith(told)
    assert bool(done.stderr) == bool(told)
    assert list(tmp_path.iterdir()) == [], "a temporary folder was left behind"


def test_an_interrupt_after_the_work_changes_nothing(tmp_path: Path) -> None:
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.3)"
    done = python(ENDS.format(end="pass", late=interrupt), str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("atexit ") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT])
def test_output_that_cannot_be_written_is_said(errors: int) -> None:
    """Where anything can be."""
    code = "from pretrain.run.exit import run_and_exit; run_and_exit(lambda: print('lost'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=errors,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    if errors == subprocess.PIPE:
        assert done.stderr == "pretrain: error: <stdout>: No space left on device\n"


def test_there_need_be_no_output() -> None:
    code = "import sys; from pretrain.run.exit import run_and_exit; run_and_exit(sys.stdout.close)"
    assert python(code).returncode == 0
    shell = [sys.executable, "-c", "from pretrain.run.exit import run_and_exit; run_and_exit(list)"]
    assert subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *shell], check=False).returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_an_error_that_cannot_be_told_keeps_its_exit_code(closed: str) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f"'{sys.executable}' -m pretrain check /nowhere.yaml {closed}"
    done = subprocess.run(["sh", "-c", command], env=buffered, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    late = "import sys; from pretrain.run.exit import run_and_exit\ndef main():\n    print('lost')\n    "
    for end, code in (("raise KeyboardInterrupt", 130), ("sys.exit(75)", 75)):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", f"{late}{end}\nrun_and_exit(main)"],
            env=buffered,
            check=False,
        )
        assert done.returncode == code
