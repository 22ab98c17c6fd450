"""The floors of the house: which package may import which, read from the source with `ast`.

docs/architecture.md has the tour; this test keeps it true. Imports inside functions count as well, and so do
the names that records give to `Late`; those for type checkers alone do not.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("data_tools", "pretrain", "evals", "slurm")
RECORDS = "pretrain/FAMILY/kind.py"
"""The records of kinds: named by `pretrain/kinds.py` in texts, imported by nobody else."""
FLOORS = (
    ("data_tools",),
    ("pretrain/lazy_compile.py",),
    ("pretrain/__init__.py",),
    ("pretrain/errors.py",),
    (
        "pretrain/kind.py",
        "pretrain/kinds.py",
        "pretrain/redact.py",
        "pretrain/sampling.py",
        "pretrain/seeds.py",
    ),
    ("pretrain/config",),
    ("pretrain/run",),
    ("pretrain/cpu",),
    ("pretrain/distributed",),
    ("pretrain/checkpoint",),
    ("pretrain/health",),
    ("pretrain/tracking", "pretrain/data"),
    ("pretrain/training",),
    ("pretrain/megatron",),
    ("pretrain/gpt", "pretrain/bert", "pretrain/rnn", "pretrain/cnn", "pretrain/gan"),
    ("evals", "pretrain/plan", "pretrain/hf", "pretrain/rehearsal"),
    (RECORDS,),
    ("pretrain/commands",),
    ("pretrain/proofs", "slurm"),
    ("pretrain/cli.py",),
    ("pretrain/__main__.py",),
)
"""From the ground up; what stands on one floor does not import its neighbours."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 600, 80


@cache
def trees() -> dict[str, ast.Module]:
    """Every file of the product, by its path."""
    paths = sorted(path for top in PRODUCT for path in (ROOT / top).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def modules() -> dict[str, str]:
    """Dotted name -> file."""
    return {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in trees()}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for type checkers alone."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from executed(child)


def imported(tree: ast.Module) -> Iterator[str]:
    """The files of the product that a file imports, anywhere in it."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Late":
            names = [str(ast.literal_eval(node.args[0])).partition(":")[0]]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports are absolute"
            names = [
                inner if (inner := f"{node.module}.{alias.name}") in modules() else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (modules()[name] for name in names if name in modules())


@cache
def arrows() -> dict[str, set[str]]:
    return {file: set(imported(tree)) for file, tree in trees().items()}


def room(file: str) -> str:
    first, *rest = file.split("/")
    if first == "pretrain" and rest[-1] == "kind.py" and len(rest) > 1:
        return RECORDS
    return first if first != "pretrain" else f"{first}/{rest[0]}"


def test_every_room_has_a_floor() -> None:
    rooms = {room(file) for file in trees()}
    assert rooms == set(FLOOR)


def test_no_arrow_leads_up_or_to_a_neighbour() -> None:
    wrong = {
        f"{file} imports {other}"
        for file, others in arrows().items()
        for other in others
        if room(file) != room(other) and FLOOR[room(file)] <= FLOOR[room(other)]
    }
    assert not wrong


def test_no_circle_of_files() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_what_a_record_names_exists() -> None:
    """Also with the signature that `Kind` asks for: tests of the commands call each."""
    calls = [
        node
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Late"
    ]
    texts = {str(ast.literal_eval(call.args[0])) for call in calls}
    named = {text for text in texts if text.partition(".")[0] in PRODUCT}
    assert len(named) > 20
    for name in named:
        module, _, attribute = name.partition(":")
        if not module.startswith("pretrain."):  # an optimizer of PyTorch
            assert importlib.util.find_spec(module)
            continue
        top = attribute.partition(".")[0]
        tree = trees()[modules()[module]]
        defined = {getattr(node, "name", None) for node in tree.body}
        assert top in defined, name


def test_files_and_functions_are_short() -> None:
    long = []
    for file, tree in trees().items():
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES_OF_A_FILE:
            long.append(f"{file}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{file}: {node.name} has {length} lines")
    assert not long


def test_every_package_says_what_lives_in_it() -> None:
    silent = [
        file for file, tree in trees().items() if file.endswith("__init__.py") and not ast.get_docstring(tree)
    ]
    assert not silent
