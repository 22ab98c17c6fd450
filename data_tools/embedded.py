"""Real text that every Python carries, for trying everything out without data of one's own."""

import ast
import importlib
import os
import sysconfig
from collections.abc import Iterator

CORPORA = ("stdlib", "language-reference", "english")
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

    Its tests are left out, and so are the few files in another encoding than UTF-8.
    """
    root = sysconfig.get_path("stdlib")
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

    Prose without layout: any whitespace is one space. Documents below `SHORTEST_ENGLISH` characters are left
    out.
    """
    docstrings = ((name, _docstrings(source)) for name, source in stdlib_source())
    for documents in (language_reference(), docstrings):
        for name, text in documents:
            flat = " ".join(text.split())
            if len(flat) >= SHORTEST_ENGLISH:
                yield name, flat


def _docstrings(source: str) -> str:
    """The docstrings of a module, its classes and functions, in the order of the file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def corpus(name: str) -> Iterator[tuple[str, str]]:
    """The corpus of that name, one of `CORPORA`."""
    if name == "english":
        return english()
    return stdlib_source() if name == "stdlib" else language_reference()
