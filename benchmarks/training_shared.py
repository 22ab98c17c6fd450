"""As training.py on a machine that others use too: CPU seconds of a step on one thread.

    python benchmarks/training_shared.py [--quick]

Where other processes take turns on the cores, seconds on the clock are theirs. CPU time is the step's own,
but says nothing of how well threads and ranks share the work.
"""

import tempfile
import time
from pathlib import Path

from corpus import random_shards, small_tokenizer
from measure import Report, Table, Target, main, ratio
from race import race, rows_of
from training import SIZES, TARGETS, TOKENS, VOCAB, contenders

from pretrain.cpu.products.choice import available_here
from pretrain.cpu.products.settle import decide

TURNS = {("4M", "fp32"): 9, ("27M", "fp32"): 5, ("88M", "fp32"): 5, ("4M", "bf16"): 3}
"""Of one step. Without AVX-512 a larger model in bf16 takes the others minutes a step."""


def measure(quick: bool) -> Report:
    """Let the contenders of each size and precision take turns."""
    rows: list[tuple[str, ...]] = []
    targets = []
    sizes = {size.name: size for size in SIZES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(folder / "shards", small_tokenizer(VOCAB), TOKENS)
        for (size, precision), turns in list(TURNS.items())[: 1 if quick else None]:
            shape = sizes[size].shape
            racing = contenders(folder, shape, precision, 1)
            found = race(racing, 3 if quick else turns, 1, time.process_time)
            rows += rows_of(found, shape.batch * shape.context, (size, precision, str(turns)))
            targets += [
                Target(f"{size}, {precision}: ours / {other}", ratio(found[other], found["ours"]), bound)
                for other, bound in TARGETS.items()
            ]
    question = (
        f"Training a GPT with a vocabulary of {VOCAB:,} as in training.py, one process of one thread, "
        "in tokens by CPU second: the machine is shared. Turns are of one step. Products on the CPU: "
        f"{decide(available_here()).choice.text}."
    )
    header = ("size", "precision", "turns", "contender", "tokens/CPU s", "CPU ms a step", "ours / this")
    return Report("training-shared", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
