"""The command line as a user meets it: exit codes, one message, no traceback, and no waiting for --help."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from bound import pretrain_bound
from config_files import REPOSITORY, write_config

from pretrain import cli
from pretrain.errors import HealthError, IntegrityError, UserError

HEAVY = ("torch", "megatron", "mlflow", "numpy", "sentencepiece", "pyarrow", "webdataset")


def pretrain(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pretrain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600, check=False)


def imported_by(*arguments: str) -> set[str]:
    """Which heavy packages a command imports."""
    program = (
        "import sys, json; sys.argv = ['pretrain', *json.loads(sys.argv[1])]\n"
        "from pretrain.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('\\n' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    done = pretrain("--help")
    assert done.returncode == 0
    for command in ("data", "check", "train", "eval", "generate", "quickstart", "doctor", "sync"):
        assert f" {command} " in done.stdout
    assert imported_by("--help") == set()
    assert imported_by("train", "--help") == set()


def test_check_without_data_imports_nothing_heavy(tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.yaml")
    assert imported_by("check", config, "--no-data", "--show") == set()


def test_starting_ranks_imports_nothing_heavy() -> None:
    """Each rank has to; the command that starts them would keep them waiting for it."""
    program = (
        "import sys, pretrain.commands.launch\n"
        f"sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.slow
def test_help_answers_in_under_a_second() -> None:
    """Of a processor, whatever else it does."""
    times = []
    for _ in range(4):
        pretrain("--help")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(used.ru_utime + used.ru_stime)
    assert min(after - before for before, after in pairwise(times)) < 1.0


def test_check_prints_what_follows_from_a_config(tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.yaml", parallel__tensor=2)
    done = pretrain("check", config, "--no-data", "--processes", "4", "--show", "model.dropout=0.25")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "model.dropout 0.25 command line" in lines
    assert f"model.num_layers 4 {config}:6" in lines
    assert "optimizer.beta1 0.9 default" in lines
    assert "data parallel size 2 = 4 processes / 2 of one replica" in lines
    assert "gradient accumulation micro-batches of 2 a step and replica: 2" in lines
    assert "tokens 512 a step, 51,200 in 100 steps" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.yaml"], "pretrain: error: nowhere.yaml: no such config file"),
        (["check", "a.yaml", "--no-data", "model.droput=1"], "(did you mean 'dropout'?)"),
        (
            ["check", "a.yaml", "--no-data", "--processes", "3"],
            "batch.global_size: 8 samples are not a multiple",
        ),
        (["check", "a.yaml"], "data.train: data/small: "),
        (["check", "a.yaml", "--proceses", "3"], "No such option: --proceses"),
        (["check", "a.yaml", "--processes", "0"], "Invalid value for '--processes'"),
        (["chekc", "a.yaml"], "No such command 'chekc'"),
        (["check"], "Missing argument 'CONFIG'"),
        (["generate", "run"], "--prompt is missing"),
        (
            ["generate", "run", "--prompt", "a", "--greedy", "--top-k", "3"],
            "--top-k has no effect with --greedy",
        ),
        (
            ["generate", "run", "--prompt", "a", "--temperature", "0"],
            "--temperature must be above 0, got 0.0",
        ),
        (
            ["generate", "run", "--prompt", "a", "--temperature", "nan"],
            "--temperature must be above 0, got nan",
        ),
        (
            ["generate", "run", "--prompt", "a", "--top-p", "1.5"],
            "--top-p must be above 0 and at most 1, got 1.5",
        ),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_config(tmp_path / "a.yaml")
    done = pretrain(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_file_may_be_named_by_a_directory_without_permission(tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.yaml")
    os.chmod(config, 0)
    done = pretrain_bound("check", config)
    assert done.returncode == 2
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("wrong\nin two lines"), 2, "pretrain: error: wrong\nin two lines\n"),
        (IntegrityError("broken"), 3, "pretrain: error: broken\n"),
        (HealthError("nan"), 4, "pretrain: error: nan\n"),
        (
            PermissionError(13, "Permission denied", "runs/x"),
            2,
            "pretrain: error: runs/x: Permission denied\n",
        ),
        (OSError(28, "No space left on device"), 2, "pretrain: error: No space left on device\n"),
    ],
)
def test_each_way_to_end_has_its_exit_code(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), OSError(22, "Invalid argument")])
def test_a_bug_keeps_its_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise bug

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(type(bug)):
        cli.main()


def test_an_interrupt_ends_a_command_with_130() -> None:
    """While it waits for a server that answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(300)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/shards"
        command = [sys.executable, "-m", "pretrain", "data", "inspect", url]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` ignores it
        )
        with server.accept()[0]:  # once the command has asked, and waits
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_goes_away_is_no_bug() -> None:
    config = REPOSITORY / "configs" / "gpt" / "tiny.yaml"
    line = f"{sys.executable} -m pretrain check {config} --no-data --show | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
