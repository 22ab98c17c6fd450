"""What a checkpoint costs: the stall of a step, bytes a second, and verification.

    python benchmarks/saving.py [--quick]

The run is a GPT of about 50 million parameters in fp32, whose checkpoint holds the weights and two moments.
Plain writing is the same number of bytes from memory to one file, with fsync: what the disk and the kernel
allow. Each save is followed by steps, so that an asynchronous one has something to hide behind.
"""

import os
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from corpus import gpt_config, random_shards
from measure import Report, Table, main, ratio, spread, timed
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from data_tools.tokenizer import byte_tokenizer
from pretrain.checkpoint import Saver, StoreCoordinator, verify
from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.config.sections import CheckpointConfig
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed
from pretrain.gpt.trainer import GptTrainer

THREADS, STEPS_BETWEEN = 2, 3
FULL = ("model.num_layers=16", "model.hidden_size=512", "model.num_attention_heads=8")
SMALL = ("model.num_layers=2", "model.hidden_size=128")
SHAPE = ("batch.global_size=1", "batch.micro_size=1", "batch.sequence_length=128")


class Bench:
    """A trainer with a synchronous and an asynchronous saver, and what each round found."""

    def __init__(self, folder: Path, trainer: GptTrainer) -> None:
        self.folder, self.trainer, self.step = folder, trainer, 0
        world = trainer.layout.world
        self.savers = {
            name: Saver(
                folder / name,
                CheckpointConfig.model_validate({"async": name == "asynchronous", "keep_last": 1}),
                world.rank,
                world.size,
                StoreCoordinator(PrefixStore(name, world.store)),
                say=lambda line: None,
            )
            for name in ("synchronous", "asynchronous")
        }
        self.seconds: dict[str, list[float]] = {}
        self.sizes: dict[str, int] = {}

    def note(self, name: str, seconds: float) -> None:
        """Keep a number of this round."""
        self.seconds.setdefault(name, []).append(seconds)

    def train(self) -> None:
        """One step."""
        self.trainer.step(self.step)
        self.step += 1

    def pieces(self, name: str) -> list[ShardedTensor]:
        """What a saver saves."""
        return list(self.trainer.pieces())

    def save(self, name: str) -> None:
        """A save, the steps after it, and its end."""
        saver = self.savers[name]
        pieces = self.pieces(name)
        self.note(f"{name}: the call", timed(lambda: saver.save(self.step, pieces, {"step": self.step}, {})))
        self.note(f"{name}: steps right after it", timed(self.train))
        for _ in range(STEPS_BETWEEN - 1):
            self.train()
        saver.join()
        report = saver.last
        assert report is not None and report.ok, report
        self.sizes[name] = report.bytes
        self.note(f"{name}: until it is in place", report.seconds)

    def round(self) -> None:
        """Everything once."""
        for _ in range(STEPS_BETWEEN):
            self.note("a step without a save", timed(self.train))
        for name in self.savers:
            self.save(name)
        report = self.savers["synchronous"].last
        assert report is not None and report.path is not None
        path = report.path
        self.note("verification", timed(lambda: verify(path)))
        data = np.ones(self.sizes["synchronous"], np.uint8)
        self.note("plain write and fsync", timed(lambda: self.write_plainly(data)))

    def write_plainly(self, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
        """The same number of bytes in one file."""
        with open(self.folder / "plain", "wb") as file:
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())


def measure(quick: bool) -> Report:
    """Rounds of everything in turn."""
    torch.set_num_threads(THREADS)
    rounds = 2 if quick else 7
    with tempfile.TemporaryDirectory() as name, init_distributed(RankInfo(0, 1, 0, "alone")) as world:
        folder = Path(name)
        shards = random_shards(folder / "shards", byte_tokenizer(), 1 << 20)
        trainer = GptTrainer(gpt_config(folder, shards, *SHAPE, *(SMALL if quick else FULL)).config, world)
        bench = Bench(folder, trainer)
        for _ in range(2):
            bench.train()
        bench.round()  # host copies are made, files are there
        bench.seconds.clear()
        for _ in range(rounds):
            bench.round()
        parameters = sum(p.numel() for chunk in trainer.model.chunks for p in chunk.parameters())
        for saver in bench.savers.values():
            saver.close()
    return report_of(bench, parameters, rounds)


def report_of(bench: Bench, parameters: int, rounds: int) -> Report:
    """The table: seconds, and GB/s where bytes were moved."""
    moved = (
        "synchronous: the call",
        "asynchronous: until it is in place",
        "verification",
        "plain write and fsync",
    )
    rows, size = [], bench.sizes["synchronous"]
    for name, seconds in bench.seconds.items():
        rate = f"{size / median(seconds) / 1e9:.2f}" if name in moved else ""
        rows.append((name, spread([s * 1e3 for s in seconds], ",.0f"), rate))
    found = bench.seconds
    call, plain = found["synchronous: the call"], found["plain write and fsync"]
    question = (
        f"{parameters / 1e6:.1f} million parameters, a checkpoint of {size / 1e6:,.0f} MB. Median "
        f"(middle half) of {rounds} rounds, {THREADS} threads."
    )
    shares = [
        ("rate of a synchronous save / plain write", f"{ratio(plain, call):.2f}"),
        ("rate of verification / plain write", f"{ratio(plain, found['verification']):.2f}"),
        ("stall, asynchronous / synchronous", f"{ratio(found['asynchronous: the call'], call):.3f}"),
    ]
    return Report(
        "saving", question, [Table(("what", "ms", "GB/s"), rows), Table(("ratio", "median"), shares)]
    )


if __name__ == "__main__":
    main(measure, __doc__)
