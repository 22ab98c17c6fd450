"""Real text that every installation carries, for trying everything out without data of your own."""

import ast
import hashlib
import importlib
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator

SHORTEST_ENGLISH = 300
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "lib2to3",
    "pydoc_data",
}


def stdlib_source() -> Iterator[tuple[str, str]]:
    """(name, text) of each .py file of the running Python's standard library, sorted by name.

    Its tests are left out, and so are the few files that are not UTF-8.
    """
    yield from _sources(sysconfig.get_path("stdlib"))


def _sources(root: str) -> Iterator[tuple[str, str]]:
    """(path below root, text) of each .py file, sorted."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        names += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    for path in sorted(names):
        try:
            with open(path, encoding="utf-8", newline="") as file:
                text = file.read()
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield os.path.relpath(path, root), text


def language_reference() -> Iterator[tuple[str, str]]:
    """(name, text) of each topic of the Python language reference: English text, sorted by name."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    yield from sorted(topics.items())


def english() -> Iterator[tuple[str, str]]:
    """(name, text) of the language reference's topics and of all docstrings of each module of the library.

    Plain prose: all whitespace is collapsed to one space. Documents below `SHORTEST_ENGLISH` characters are
    left out.
    """
    yield from _prose(language_reference())
    yield from _prose((name, _docstrings(source)) for name, source in stdlib_source())


def packages(root: str | None = None) -> Iterator[tuple[str, str]]:
    """`english`, and the same of each module of the packages installed beside this one, each text once.

    Texts come in an order that mixes packages, so that a validation set taken from the end is like the rest.

    Args:
        root: where packages are; None: those of the running Python, some fifty megabytes of documentation
            including this project's dependencies.
    """
    found: dict[bytes, tuple[str, str]] = {}  # packages vendor copies of one another
    sources = _sources(root or sysconfig.get_path("purelib"))
    installed = ((name, _docstrings(source)) for name, source in sources)
    for documents in (english(), _prose(installed)):
        for name, text in documents:
            found.setdefault(hashlib.sha256(text.encode()).digest(), (name, text))
    for mark in sorted(found):
        yield found[mark]


def _prose(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, text in documents:
        flat = " ".join(text.split())
        if len(flat) >= SHORTEST_ENGLISH:
            yield name, flat


def _docstrings(source: str) -> str:
    """The docstrings of a module, its classes and functions, in the file's order; none if the code does not
    parse."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in its literals
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def corpus(name: str) -> Iterator[tuple[str, str]]:
    """The corpus of that name: stdlib, language-reference, english or packages."""
    makers: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "stdlib": stdlib_source,
        "language-reference": language_reference,
        "english": english,
        "packages": packages,
    }
    return makers[name]()
