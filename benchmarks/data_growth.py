"""Cleaning and building as the input grows: time and memory at 1x, 4x and 16x, and what duplicates cost.

    python benchmarks/data_growth.py [--quick]

Texts are words of the language reference drawn at random, so that none is like another, and of each twenty
one is a copy of an earlier text and one an earlier text with a stretch of 5 % of its words replaced. CPU
time is that of all processes, so that it can be compared on a machine that does other things too.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from corpus import prose, small_tokenizer
from measure import Report, Table, Target, main

VOCAB, WORKERS, WORDS = 8192, 2, 400
SIZES = (1, 4, 16)
DUPLICATES = (200_000, 800_000)
DOCUMENTS_OF_A_PARTITION = 100_000


@dataclass(frozen=True)
class Cost:
    """What a command took; memory in MiB."""

    wall: float
    cpu: float
    worker: float
    main: float
    said: str


def write_texts(path: Path, size: int) -> None:
    """About `size` bytes of .jsonl, a tenth of it copies and near copies of what came before."""
    generator, words = random.Random(size), " ".join(prose()).split()
    originals: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < size:
            kind, number = number % 20, number + 1
            if kind < 18 or not originals:
                text = generator.choices(words, k=WORDS)
                originals = [*originals[-99:], text]
            else:
                text = list(generator.choice(originals))
            if kind == 19:
                start = generator.randrange(WORDS - WORDS // 20)
                text[start : start + WORDS // 20] = generator.choices(words, k=WORDS // 20)
            file.write(json.dumps({"text": " ".join(text)}) + "\n")


def cost_of(function: str, *arguments: object) -> Cost:
    """Let a function of this file do its work in a process of its own, and ask the system what it took."""
    code = f"import sys, data_growth; data_growth.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    here = os.path.dirname(os.path.abspath(__file__))
    began = time.perf_counter()
    answer = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - began
    found = json.loads(answer.stdout.splitlines()[-1])
    return Cost(wall, found["cpu"], found["worker"], found["main"], found["said"])


def tell(said: str) -> None:
    """Print what this process and its children took, for `cost_of`."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(each.ru_utime + each.ru_stime for each in (mine, theirs))
    worker = theirs.ru_maxrss or mine.ru_maxrss  # one partition is done by the process itself
    peaks = {"worker": worker / 1024, "main": mine.ru_maxrss / 1024}
    print(json.dumps({"cpu": cpu, **peaks, "said": said}))


def do_clean(text: str, output: str) -> None:
    from data_tools.clean.cleaner import clean
    from data_tools.clean.options import CleanOptions

    found = clean(CleanOptions((text,), output, WORKERS))
    tell(f"{found.documents:,} in, {found.exact_duplicates:,} copies, {found.near_duplicates:,} near")


def do_build(text: str, output: str, tokenizer: str) -> None:
    from data_tools.builder import BuildOptions, build

    index = build(BuildOptions((text,), tokenizer, output, WORKERS)).index
    tell(f"{index.tokens:,} tokens, {index.bytes / index.tokens:.2f} bytes each")


def do_removals(folder: str, duplicates: str, bands: str) -> None:
    """Decide which of so many duplicates go, each found by every band."""
    from data_tools.clean.duplicates import Slice, removals
    from data_tools.clean.files import store_array

    parts = [Slice(band, 0, 1) for band in range(int(bands))]
    numbers = np.arange(2 * int(duplicates), dtype=np.uint64)
    numbers += (numbers // DOCUMENTS_OF_A_PARTITION) << np.uint64(32)
    for part in parts:
        store_array(Path(folder), part.name, numbers.reshape(-1, 2).T)
    found = removals(Path(folder), parts, exact=True)
    assert len(found.documents) == int(duplicates)
    tell(f"{len(found.documents):,} duplicates")


def measure(quick: bool) -> Report:
    """Clean and build inputs of three sizes; then decide on many duplicates."""
    unit = 1 << 20 if quick else 4 << 20
    rows: list[tuple[str, ...]] = []
    costs: dict[str, list[Cost]] = {"clean": [], "build": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_tokenizer(VOCAB).save(folder / "tokenizer")
        for factor in SIZES:
            text = folder / f"{factor}.jsonl"
            write_texts(text, factor * unit)
            cleaned, shards = folder / f"clean-{factor}", folder / f"shards-{factor}"
            for step, cost in (
                ("clean", cost_of("do_clean", text, cleaned)),
                ("build", cost_of("do_build", text, shards, folder / "tokenizer")),
            ):
                costs[step].append(cost)
                rows.append((f"{step} {factor} x {unit >> 20} MiB", *cells(cost)))
        held = []
        for count in (DUPLICATES[0] // 10, DUPLICATES[1] // 10) if quick else DUPLICATES:
            place = folder / f"pairs-{count}"
            place.mkdir()
            held.append((count, cost_of("do_removals", place, count, 15)))
    (few, least), (many, most) = held
    each = (most.main - least.main) * 2**20 / (many - few)
    question = (
        "Cleaning (gopher, repetition, exact and near duplicates) and building of the same text, "
        f"{WORKERS} workers. Single runs; CPU time is that of all processes, the start of each included."
    )
    header = ("what", "wall s", "CPU s", "worker MiB", "main process MiB", "result")
    decided = [(f"{count:,}", f"{cost.cpu:.1f}", f"{cost.main:.0f}") for count, cost in held]
    tables = [Table(header, rows), Table(("duplicates to decide on", "CPU s", "main process MiB"), decided)]
    targets = [Target("bytes held for each duplicate, 15 bands", each, 1024, at_least=False)]
    for step, (_, middle, last) in ((step, tuple(costs[step])) for step in costs):
        first = costs[step][0]
        grown = (last.cpu - first.cpu) / (middle.cpu - first.cpu)
        targets += [
            Target(f"{step}: CPU of 15 more units / of 3 more (linear: 5)", grown, 5.5, at_least=False),
            Target(f"{step}: worker memory, 16x / 1x", last.worker / first.worker, 1.2, at_least=False),
        ]
    return Report("data-growth", question, tables, targets)


def cells(cost: Cost) -> tuple[str, ...]:
    """A row of the first table."""
    numbers = (f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.worker:.0f}", f"{cost.main:.0f}")
    return (*numbers, cost.said)


if __name__ == "__main__":
    main(measure, __doc__)
