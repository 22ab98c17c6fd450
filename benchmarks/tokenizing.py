"""Shards by a tokenizer of GPT-2's kind with two workers, against a bare `encode_batch` on two threads.

    python benchmarks/tokenizing.py [--quick]

Seconds are of CPU time, of all threads and processes. The bare library gets its texts and its tokenizer
before the clock starts and drops its ids; a build starts its workers, reads JSON lines, counts words and
writes shards.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from building import build_shards, peak_memory, texts_of, write_text
from measure import Report, Table, Target, main, ratio, spread, take_turns

VOCAB, THREADS = 8192, 2
SIZES = (1, 4, 16)


def train(folder: Path, text: Path) -> Path:
    """A byte-level BPE, as GPT-2's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts_of(text), trainer)
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(each.ru_utime + each.ru_stime for each in used)


def bare(tokenizer: Path, text: Path) -> float:
    """CPU seconds of `encode_batch` alone, in a process of its own, which has two threads."""
    command = [sys.executable, "-c", "import tokenizing, sys; tokenizing.encode(*sys.argv[1:])"]
    done = subprocess.run(
        [*command, str(tokenizer), str(text)],
        cwd=Path(__file__).parent,
        env={**os.environ, "RAYON_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def encode(tokenizer: str, text: str) -> None:
    """Print the CPU seconds of `encode_batch`."""
    from tokenizers import Tokenizer

    library, texts = Tokenizer.from_file(tokenizer), list(texts_of(Path(text)))
    start = cpu_seconds()
    library.encode_batch(texts, add_special_tokens=False)
    print(cpu_seconds() - start)


def built(folder: Path, text: Path) -> float:
    """CPU seconds of a build with two workers."""
    start = cpu_seconds()
    build_shards(folder, text, THREADS)
    return cpu_seconds() - start


def measure(quick: bool) -> Report:
    """Let build and bare encode take turns; then build inputs of three sizes."""
    rounds, size, unit = (1, 4 << 20, 1 << 20) if quick else (5, 48 << 20, 8 << 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.jsonl"
        write_text(text, 4 << 20)
        tokenizer = train(folder / "tokenizer", text)
        written = write_text(text, size)
        found = take_turns(
            {
                "pretrain data build": lambda: built(folder, text),
                "tokenizers' encode_batch": lambda: bare(tokenizer, text),
            },
            rounds,
        )
        peaks = []
        for factor in SIZES:
            write_text(text, factor * unit)
            peaks.append(peak_memory(folder, text))
    rows = [(what, spread([written / s / 1e6 for s in seconds], ".2f")) for what, seconds in found.items()]
    memory = [
        (f"{factor} x {unit >> 20} MiB", f"{peak:.0f} MiB") for factor, peak in zip(SIZES, peaks, strict=True)
    ]
    question = (
        f"{written / 1e6:.0f} MB of English and Python to shards with a byte-level BPE of {VOCAB:,} ids, "
        f"{THREADS} processes. Median (middle half) of {rounds} turns."
    )
    share = ratio(found["tokenizers' encode_batch"], found["pretrain data build"])
    tables = [Table(("what", "MB per CPU second"), rows), Table(("input", "peak memory of a worker"), memory)]
    targets = [
        Target("build / encode_batch", share, 0.9),
        Target("peak memory of a worker, 16x / 1x input", peaks[-1] / peaks[0], 1.2, at_least=False),
    ]
    return Report("tokenizing", question, tables, targets)


if __name__ == "__main__":
    main(measure, __doc__)
