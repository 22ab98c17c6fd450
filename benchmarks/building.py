"""Text to shards with two workers, against sentencepiece's bare encode in two processes; memory of workers.

    python benchmarks/building.py [--quick]

The bare encode gets the same lines as bytes and throws its ids away: no reading of JSON, no shards, no
checksums. Its processes and the tokenizer are there before the clock starts; a build pays for its own.
"""

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, cycle
from multiprocessing.connection import Connection
from pathlib import Path

from corpus import small_tokenizer
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

from data_tools.builder import BuildOptions, build
from data_tools.embedded import language_reference, stdlib_source
from data_tools.tokenizer import Tokenizer

VOCAB, WORKERS = 8192, 2
SIZES = (1, 4, 16)


def write_text(path: Path, size: int) -> int:
    """Documents of the embedded corpora, over and over, as .jsonl of about `size` bytes of text."""
    texts = [text for _, text in chain(language_reference(), stdlib_source())]
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        for text in cycle(texts):
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
            if written >= size:
                return written
    raise AssertionError("there is text")


def texts_of(path: Path) -> Iterator[str]:
    """The documents of a .jsonl file."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def encode_share(connection: Connection, tokenizer_path: str, path: str, share: int) -> None:
    """A process of the bare encode: every second document, line by line, whenever it is told to."""
    import sentencepiece

    tokenizer = Tokenizer.load(tokenizer_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    documents = [text for i, text in enumerate(texts_of(Path(path))) if i % WORKERS == share]
    lines = [line for text in documents for line in text.splitlines(keepends=True)]
    connection.send(None)
    while connection.recv():
        for line in lines:
            processor.encode(line)
        connection.send(None)


class BareEncode:
    """`WORKERS` processes that encode the same text at once."""

    def __init__(self, tokenizer: Path, text: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for share in range(WORKERS):
            ours, theirs = context.Pipe()
            arguments = (theirs, str(tokenizer), str(text), share)
            context.Process(target=encode_share, args=arguments, daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self) -> None:
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self.pipes:
            pipe.send(False)


def build_shards(folder: Path, text: Path, workers: int = WORKERS) -> None:
    """One build into a folder that is not there before or after."""
    output = folder / "built"
    build(BuildOptions((str(text),), str(folder / "tokenizer"), str(output), workers))
    shutil.rmtree(output)


def peak_memory(folder: Path, text: Path) -> float:
    """Peak resident memory of the larger worker of a build, MiB; in a process of its own."""
    code = "import building, pathlib, sys; building.report_peak(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(folder), str(text)]
    here = os.path.dirname(os.path.abspath(__file__))
    answer = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def report_peak(folder: Path, text: Path) -> None:
    """Build, then print the peak of the largest child process."""
    build_shards(folder, text)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def measure(quick: bool) -> Report:
    """Let build and bare encode take turns; then build inputs of three sizes."""
    rounds, size, unit = (3, 2 << 20, 1 << 20) if quick else (7, 48 << 20, 8 << 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_tokenizer(VOCAB).save(folder / "tokenizer")
        text = folder / "text.jsonl"
        written = write_text(text, size)
        bare = BareEncode(folder / "tokenizer", text)
        turns = {
            "pretrain data build": lambda: timed(lambda: build_shards(folder, text)),
            "sentencepiece's encode": lambda: timed(bare),
        }
        found = take_turns(turns, rounds)
        bare.close()
        peaks = []
        for factor in SIZES:
            write_text(text, factor * unit)
            peaks.append(peak_memory(folder, text))
    share = ratio(found["sentencepiece's encode"], found["pretrain data build"])
    rows = [(name, spread([written / s / 1e6 for s in seconds], ".2f")) for name, seconds in found.items()]
    memory = [
        (f"{factor} x {unit >> 20} MiB", f"{peak:.0f} MiB") for factor, peak in zip(SIZES, peaks, strict=True)
    ]
    question = (
        f"{written / 1e6:.0f} MB of English and Python to shards with a BPE of {VOCAB:,} ids, {WORKERS} "
        f"processes. Median (middle half) of {rounds} turns."
    )
    tables = [Table(("what", "MB/s"), rows), Table(("input", "peak memory of the larger worker"), memory)]
    targets = [
        Target("build / bare encode", share, 0.8),
        Target("peak memory of a worker, 16x / 1x input", peaks[-1] / peaks[0], 1.2, at_least=False),
    ]
    return Report("building", question, tables, targets)


if __name__ == "__main__":
    main(measure, __doc__)
