"""Programs that end with their parent: how they are started, and what is said where they cannot be."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_tools import children
from data_tools.tie import tie_to

RELAYS = """
import os, signal, subprocess, sys
from pretrain.run.relay import Relay

with Relay() as relay:
    {body}
print("went on", relay.code(child), relay.why)
"""
STUBBORN = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"


def test_a_program_is_run_as_it_is(tmp_path: Path) -> None:
    """With its arguments, environment, folder and descriptors; a pipe that breaks ends it."""
    ask = "import os, signal, sys; print(sys.argv[1], os.getcwd(), os.environ['A'], os.getppid())"
    done = children.run(
        [sys.executable, "-c", ask, "\udcff b"], capture_output=True, cwd=tmp_path, env={"A": "1"}
    )
    assert done.stdout.split()[:3] == [b"\xff", b"b", bytes(tmp_path)], done
    piped = children.run(["sh", "-c", "trap '' TERM; yes | head -n 1"], capture_output=True, text=True)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "y\n", "")


def test_a_program_that_is_not_there() -> None:
    for start in (children.run, children.start):
        with pytest.raises(FileNotFoundError, match=r"No such program: 'no-such-program'"):
            start(["no-such-program", "-x"])
    with pytest.raises(FileNotFoundError):
        children.run(["ls"], env={"PATH": "/nowhere"})


def test_messages_name_the_program() -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"^Command '\['sleep', '100'\]' timed out after"):
        children.run(["sleep", "100"], timeout=0.1)
    with pytest.raises(subprocess.CalledProcessError, match=r"^Command '\['false'\]' returned"):
        children.run(["false"], check=True)


def test_a_thread_that_might_end_starts_none() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(children.run, ["true"]).result().returncode == 0
        with pytest.raises(RuntimeError, match="true would end with the thread ThreadPool"):
            pool.submit(children.start, ["true"]).result()


def test_a_parent_that_has_ended_already() -> None:
    code = f"from data_tools.tie import {tie_to.__name__}; {tie_to.__name__}(1 << 22); print('goes on')"
    done = children.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, "")


def relayed(body: str) -> "subprocess.CompletedProcess[str]":
    script = RELAYS.format(body="\n    ".join(body.splitlines()))
    return children.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)


def test_a_signal_is_the_childs_and_counts_although_that_ends_well() -> None:
    done = relayed(f"""\
child = relay.start(["sh", "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(os.getpid(), signal.SIGTERM)
child.wait()""")
    assert (done.returncode, done.stdout) == (0, "went on 143 stopped by SIGTERM: \n"), done.stderr


def test_a_signal_before_there_is_a_child_waits_for_it() -> None:
    done = relayed("""\
os.kill(os.getpid(), signal.SIGTERM)
child = relay.start(["sleep", "1000"])
child.wait()""")
    assert (done.returncode, done.stdout) == (0, "went on 143 stopped by SIGTERM: \n"), done.stderr


def test_a_signal_that_is_too_late_for_children_is_ours() -> None:
    done = relayed("""\
child = relay.start(["true"])
child.wait()
os.kill(os.getpid(), signal.SIGTERM)""")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
