"""What a checkpoint of a billion parameters costs: stalls, memory, and the rate beside the disk's own.

    python benchmarks/saving_large.py [--quick]

The run is a GPT of 10^9 parameters in fp32, whose checkpoint holds the weights and two moments. The disk's
own rate is that of `dd` from /dev/zero to a file of as many bytes on the same disk in the same rounds:
through the page cache with one fsync at the end, and past the cache, as a save is (direct). An asynchronous
save copies what it writes to memory first. Beside weights, moments and gradients, copies of the whole state
would make 28 GB, so here it takes the weights alone; the synchronous save takes everything.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, ratio, spread, timed
from saving import SMALL, THREADS, Bench

from data_tools.tokenizer import byte_tokenizer
from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed
from pretrain.gpt.trainer import GptTrainer

BILLION = ("model.num_layers=20", "model.hidden_size=2048", "model.num_attention_heads=16")
SHAPE = ("batch.global_size=1", "batch.micro_size=1", "batch.sequence_length=32")
BLOCK = 8 << 20
DD, DIRECT = "dd, fsync at the end", "dd, direct and fsync"
LEAST_OF_DD = 0.8


class LargeBench(Bench):
    """Saves of both kinds beside `dd`, and the memory that each save adds."""

    def pieces(self, name: str) -> list[ShardedTensor]:
        """The whole state; the weights alone where copies of it are made."""
        every = list(self.trainer.pieces())
        return every if name == "synchronous" else [piece for piece in every if piece.group == "weights"]

    def round(self) -> None:
        """Everything once."""
        self.note("a step without a save", timed(self.train))
        for name in self.savers:
            with self.memory_added(name):
                self.save(name)
        size = self.sizes["synchronous"]
        self.note(DD, timed(lambda: self.dd(size, [])))
        self.note(DIRECT, timed(lambda: self.dd(size, ["oflag=direct"])))

    @contextmanager
    def memory_added(self, name: str) -> Iterator[None]:
        """Note by how much a save, or the steps beside it, raise the most memory that the process holds."""
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = resident("VmRSS")
        yield
        self.note(f"{name}: memory", resident("VmHWM") - before)

    def dd(self, size: int, more: list[str]) -> None:
        """Write so many bytes, rounded down to whole blocks, and remove them."""
        path = self.folder / "dd"
        blocks = max(1, size // BLOCK)
        command = ["dd", "if=/dev/zero", f"of={path}", f"bs={BLOCK}", f"count={blocks}", "conv=fsync", *more]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def resident(what: str) -> float:
    """Bytes of a line of /proc/self/status."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def measure(quick: bool) -> Report:
    """Rounds of everything in turn."""
    torch.set_num_threads(THREADS)
    rounds = 2 if quick else 3
    with tempfile.TemporaryDirectory() as name, init_distributed(RankInfo(0, 1, 0, "alone")) as world:
        folder = Path(name)
        shards = random_shards(folder / "shards", byte_tokenizer(), 1 << 20)
        trainer = GptTrainer(gpt_config(folder, shards, *SHAPE, *(SMALL if quick else BILLION)).config, world)
        bench = LargeBench(folder, trainer)
        bench.train()
        held = resident("VmRSS")
        for _ in range(rounds):
            bench.round()
        parameters = sum(p.numel() for chunk in trainer.model.chunks for p in chunk.parameters())
        for saver in bench.savers.values():
            saver.close()
    return report_of(bench, parameters, rounds, held)


def report_of(bench: LargeBench, parameters: int, rounds: int, held: float) -> Report:
    """The table: seconds, rates, and memory."""
    found = bench.seconds
    moved = {
        "synchronous: the call": "synchronous",
        "asynchronous: until it is in place": "asynchronous",
        DD: "synchronous",
        DIRECT: "synchronous",
    }
    rows = []
    for name, numbers in found.items():
        if name.endswith("memory"):
            continue
        rate = f"{bench.sizes[moved[name]] / median(numbers) / 1e9:.2f}" if name in moved else ""
        rows.append((name, spread(numbers, ".2f"), rate))
    call = found["synchronous: the call"]
    whole, weights = bench.sizes["synchronous"], bench.sizes["asynchronous"]
    copied = weights / median(found["asynchronous: the call"]) / 1e9
    facts = [
        ("memory of the process before a save, GB", f"{held / 1e9:.2f}"),
        ("added by synchronous saves, GB", f"{max(found['synchronous: memory']) / 1e9:.2f}"),
        ("added by the first asynchronous save, GB", f"{found['asynchronous: memory'][0] / 1e9:.2f}"),
        ("copying of an asynchronous save, GB/s", f"{copied:.2f}"),
        ("rate of a synchronous save / dd with fsync", f"{ratio(found[DD], call):.2f}"),
        ("rate of a synchronous save / dd, direct", f"{ratio(found[DIRECT], call):.2f}"),
    ]
    question = (
        f"{parameters / 1e9:.3f} billion parameters in fp32, one process. A synchronous save writes weights "
        f"and both moments, {whole / 1e9:.2f} GB; an asynchronous one the weights alone, "
        f"{weights / 1e9:.2f} GB. Median (middle half) of {rounds} rounds, {THREADS} threads; the first "
        "asynchronous save makes the memory for its copies, and is among them."
    )
    target = Target("rate of a synchronous save / dd, direct", ratio(found[DIRECT], call), LEAST_OF_DD)
    tables = [Table(("what", "s", "GB/s"), rows), Table(("fact", "value"), facts)]
    return Report("saving-large", question, tables, [target])


if __name__ == "__main__":
    main(measure, __doc__)
