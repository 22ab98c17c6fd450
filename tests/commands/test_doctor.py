"""`pretrain doctor`: findings on this machine, and on machines that lack something."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import fused_adam
import pytest

from pretrain.commands import doctor
from pretrain.commands.doctor import DoctorFinding, examine, packages
from pretrain.errors import UserError


@pytest.mark.slow
def test_the_command_ends_well_where_training_works() -> None:
    command = [sys.executable, "-m", "pretrain", "doctor"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Python", "torch", "megatron-core", "CPU cores", "exchanged a tensor with gloo"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("Training works on this machine.")


def test_packages_that_are_missing_or_of_a_wrong_version_are_bad() -> None:
    found = list(
        packages(
            [
                "torch>=2.0",
                "megatron-core==0.1",
                "no-such-package-here>=1",
                "numpy",
                "pytest; extra == 'dev'",
                "no-such-package-either; python_version < '3'",
            ]
        )
    )
    assert [(one.what, one.level) for one in found] == [
        ("torch", "ok"),
        ("megatron-core", "bad"),
        ("no-such-package-here", "bad"),
    ]
    assert "pip install 'megatron-core==0.1'" in found[1].cost


def test_a_bad_finding_ends_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        doctor, "examine", lambda: [DoctorFinding("[torch]", "missing", "bad", "pip install torch")]
    )
    with pytest.raises(UserError, match=r"cannot work.*\n  \[torch\]: missing; pip install torch") as caught:
        doctor.doctor_command()
    assert caught.value.exit_code == 2
    assert "[torch]" in capsys.readouterr().out


def test_what_is_missing_is_a_note_with_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*arguments: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor, "_exchange", lambda: DoctorFinding("two processes", "", "ok"))
    found = {finding.what: finding for finding in examine()}
    for what in ("host name", "C++ compiler", "Slurm"):
        assert found[what].level == "note"
        assert found[what].cost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "level", "found"),
    [
        (None, "ok", "torch.optim.adamw.AdamW"),
        ("apex", "note", "apex.optimizers.FusedAdam"),
        ("transformer_engine", "note", "transformer_engine.pytorch.optimizers.FusedAdam"),
        ("broken", "bad", "none"),
    ],
)
def test_the_optimizer_that_a_run_gets(library: str | None, level: str, found: str, tmp_path: Path) -> None:
    """It is asked of megatron-core in a process of its own, which imports it once."""
    lines = ["from pretrain.commands import doctor", "one = doctor._optimizers()"]
    lines.append("print(one.level, one.found, one.cost)")
    if library == "broken":
        (tmp_path / "apex").mkdir()
        (tmp_path / "apex" / "__init__.py").touch()
        (tmp_path / "apex" / "optimizers.py").write_text("raise OSError('libcudart.so.12: not found')")
        lines.insert(0, f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    elif library:
        folder = str(Path(fused_adam.__file__).parent)
        lines[:0] = [
            f"import sys; sys.path.insert(0, {folder!r})",
            "import fused_adam",
            f"fused_adam.install({library!r})",
        ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{level} {found}")
    assert ("libcudart.so.12: not found" in done.stdout) == (level == "bad")


@pytest.mark.slow
def test_processes_that_can_not_talk_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    finding = doctor._exchange()
    assert finding.level == "bad"
    assert finding.cost
