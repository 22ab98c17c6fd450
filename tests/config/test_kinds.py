"""Records of kinds: each answers for itself, what they hand out knows of no table, and nobody asks twice."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from config_files import REPOSITORY

from pretrain.kinds import RECORDS, every_kind

ASKING = {
    "pretrain/commands/check.py",
    "pretrain/cli.py",
    "pretrain/commands/dry_run.py",
    "pretrain/hf/importer.py",
    "pretrain/plan/command.py",
    "pretrain/proofs/rank.py",
    "pretrain/commands/train.py",
}
"""Besides the reading of configs: commands. A family or the training loop is handed what it needs."""
MOST = 10
"""Places that narrow a config within one family. Each more is a question that a record should answer."""
HEAVY = ("torch", "megatron", "deepspeed", "transformers", "numpy", "evals", "slurm")


def sources(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((REPOSITORY / room).rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def test_every_record_answers_under_its_own_name() -> None:
    assert [kind.name for kind in every_kind()] == list(RECORDS)
    assert len({kind.config for kind in every_kind()}) == len(RECORDS)


def test_commands_ask_the_table_and_families_do_not_know_of_it() -> None:
    asking = {
        str(path.relative_to(REPOSITORY))
        for path in sources("pretrain")
        if "pretrain.kinds" in imported_by(path) and not path.is_relative_to(REPOSITORY / "pretrain/config")
    }
    assert asking == ASKING


def test_few_places_tell_configs_apart() -> None:
    chain = re.compile(r"isinstance\((\w|\.)+, *\(?\|?[A-Za-z| ]*Config(?!Error)\b")
    found = [
        f"{path.relative_to(REPOSITORY)}: {match.group()}"
        for path in sources("pretrain", "evals", "slurm")
        for match in chain.finditer(path.read_text())
    ]
    assert len(found) <= MOST, found


def test_records_cost_no_more_than_their_configs() -> None:
    """Their libraries come when a member is called."""
    program = (
        "import sys; from pretrain.kinds import every_kind; list(every_kind()); "
        f"print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == []
