"""Real text that every Python carries, for trying everything out without data of one's own."""

import importlib
import os
import sysconfig
from collections.abc import Iterator

CORPORA = ("stdlib", "language-reference")
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


def corpus(name: str) -> Iterator[tuple[str, str]]:
    """The corpus of that name, one of `CORPORA`."""
    return stdlib_source() if name == "stdlib" else language_reference()
