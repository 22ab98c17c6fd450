"""Damage to real files, drawn from a random number generator, and what a reader may do with it."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pretrain.errors import UserError

DEEP = "@deep@"
HUGE = "@huge@"
RAW = {
    DEEP: "[" * 50_000 + "]" * 50_000,
    HUGE: "9" * 5000,
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@large@": "1e999",
}
"""What `json.dumps` does not write."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e300, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30),
    *("", "a", "\0", "\ud800", "../x", "/etc/passwd", "x" * 300, "line\nline", [], {}, [1], [[]], {"a": 1}),
    *RAW,
)


def damaged_bytes(random: Random, data: bytes) -> bytes:
    """The bytes with some changed, lost, doubled or put in."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        end = min(len(changed), at + random.choice((1, 2, 4, 16, 256)))
        kind = random.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[at:end] = random.randbytes(end - at)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end]
        elif kind == 5:
            changed[at:at] = random.choice(
                (b"\0", b"\xff\xfe", b"\n", b'"', b"{", b"[" * 5000, b"\xed\xa0\x80")
            )
        elif at < len(changed):
            changed[at] = random.choice((0, 1, 127, 128, 255))
    return bytes(changed)


def damaged_json(random: Random, data: bytes) -> bytes:
    """A JSON text or one line of JSON lines with a value replaced, a key lost, added or doubled; else as
    `damaged_bytes`."""
    lines = data.split(b"\n")
    try:
        tree = json.loads(data)
        chosen = None
    except ValueError:
        chosen = random.choice([number for number, line in enumerate(lines) if line])
        try:
            tree = json.loads(lines[chosen])
        except ValueError:
            return damaged_bytes(random, data)
    for _ in range(random.choice((1, 1, 2))):
        tree = _with_damage(random, tree, deepcopy(VALUES))
    text = json.dumps(tree)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    if random.random() < 0.1 and isinstance(tree, dict) and tree:
        key = random.choice(list(tree))
        text = text[:-1] + f", {json.dumps(key)}: 3}}"
    if chosen is None:
        return text.encode()
    return b"\n".join([*lines[:chosen], text.encode(), *lines[chosen + 1 :]])


def _with_damage(random: Random, tree: Any, values: tuple[Any, ...]) -> Any:
    places = list(_places(tree))
    if not places or random.random() < 0.03:
        return random.choice(values)
    parent, key = random.choice(places)
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[random.choice(("", "step", "added", "\ud800"))] = random.choice(values)
    elif kind == 2 and isinstance(parent, list):
        parent.append(deepcopy(parent[key]))
    elif kind == 3 and isinstance(parent[key], int):
        parent[key] += random.choice((-1, 1, 10**9, -(10**9)))
    elif kind == 4 and isinstance(parent[key], str):
        parent[key] = random.choice((parent[key][:-1], parent[key] + "x", parent[key] * 2))
    else:
        parent[key] = random.choice(values)
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


Damage = Callable[[Random, bytes], bytes]
BOTH: tuple[Damage, ...] = (damaged_bytes, damaged_json)


@dataclass(frozen=True)
class Reader:
    """A reader with a good folder to damage."""

    name: str
    files: tuple[str, ...]
    """Those to damage, one at a time."""
    read: Callable[[Path], None]
    """Reads the folder; asserts what must hold of what it lets through."""
    damages: tuple[Damage, ...] = (damaged_bytes,)
    seal: Callable[[Path], None] | None = None
    """Makes checksums right again, as a forger would."""
    anew: bool = False
    """Whether reading changes the folder."""


def attempt(reader: Reader, good: Path, place: Path, random: Random) -> str:
    """Damage a copy of a good folder and read it; the message, or "" where it was let through.

    Raises:
        AssertionError: the reader raised anything but an error of ours, or its message is no good one.
    """
    if reader.anew or not place.exists():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(good, place)
    name = random.choice(reader.files)
    (place / name).write_bytes(random.choice(reader.damages)(random, (good / name).read_bytes()))
    try:
        if reader.seal is not None:
            reader.seal(place)
        return _told(reader, place)
    finally:
        for path in good.rglob("*") if reader.seal is not None else (good / name,):
            if path.is_file():
                (place / path.relative_to(good)).write_bytes(path.read_bytes())


def _odd(line: str) -> bool:
    return not line.isprintable()


def _told(reader: Reader, place: Path) -> str:
    try:
        reader.read(place)
    except UserError as error:
        message = str(error)
        assert error.exit_code in (2, 3), message
        assert str(place) in message, f"names no file: {message}"
        first, *more = message.split("\n")
        assert all(line.startswith("  ") for line in more) or first.endswith(":"), (
            f"several: {message[:300]!r}"
        )
        assert len(message) < 8000 and not any(map(_odd, (first, *more))), f"{message[:300]!r}"
        return message
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return ""
