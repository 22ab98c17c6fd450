"""Tokens a second of training, ours against the same GPT in plain PyTorch and in Hugging Face.

    python benchmarks/training.py [--quick]

Three sizes, in fp32 and bf16, in one process of two threads and in two of one thread each. Ours is a whole
`Trainer.step`: data, schedules, reductions, verdicts, AdamW. The others are the loop that a user would write:
a random crop, forward, cross entropy, backward, clipping, fused AdamW; in two processes under
DistributedDataParallel.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from corpus import gpt_config, random_shards, small_tokenizer
from measure import Report, Table, Target, main, ratio
from plain_gpt import PlainGPT, Settings, make_optimizer, random_crops
from race import THREADS, Contender, Seat, Step, race, rows_of
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, TOKENS = 4096, 1 << 20
PLAIN, HUGGING_FACE = "plain PyTorch", "Hugging Face"
PRECISIONS = ("fp32", "bf16")
TARGETS = {PLAIN: 1.0, HUGGING_FACE: 1.1}
LAYOUTS = {"DP2": (), "TP2": ("parallel.tensor=2",)}


@dataclass(frozen=True)
class Size:
    """A model, its batch, and how long it is watched."""

    name: str
    shape: Settings
    rounds: int
    steps: int
    """Of a turn."""


SIZES = (
    Size("4M", Settings(layers=4, heads=4, hidden=256, context=256, batch=4, bias=True), 15, 4),
    Size("27M", Settings(layers=8, heads=8, hidden=512, context=256, batch=4, bias=True), 9, 2),
    Size("88M", Settings(layers=12, heads=12, hidden=768, context=256, batch=2, bias=True), 9, 2),
)


def our_step(
    seat: Seat, folder: Path, shape: Settings, precision: str, overrides: tuple[str, ...], stack: ExitStack
) -> Step:
    """The step of our trainer."""
    from pretrain.distributed.launcher import RankInfo
    from pretrain.distributed.world import init_distributed
    from pretrain.gpt.trainer import GptTrainer

    own = Path(tempfile.mkdtemp(dir=folder))
    loaded = gpt_config(
        own,
        folder / "shards",
        f"precision={precision}",
        f"model.num_layers={shape.layers}",
        f"model.hidden_size={shape.hidden}",
        f"model.num_attention_heads={shape.heads}",
        f"batch.sequence_length={shape.context}",
        f"batch.global_size={shape.batch}",
        f"batch.micro_size={shape.batch // (seat.size if not overrides else 1)}",
        *overrides,
        processes=seat.size,
    )
    meet(seat)
    place = RankInfo(seat.rank, seat.size, seat.rank, "alone" if seat.size == 1 else "torchrun")
    trainer = GptTrainer(loaded.config, stack.enter_context(init_distributed(place)))
    numbers = iter(range(1_000_000))
    return lambda: trainer.step(next(numbers))


def meet(seat: Seat) -> None:
    """What torchrun would set."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(seat.port),
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(seat.size),
    }


def loop_step(
    seat: Seat,
    model: nn.Module,
    logits: Callable[[nn.Module, Tensor], Tensor],
    folder: Path,
    shape: Settings,
    precision: str,
) -> Step:
    """The step of a plain loop; autocast is how such a loop trains in bf16."""
    from data_tools.reader import ShardReader

    reader = ShardReader(folder / "shards")
    ids = torch.from_numpy(reader.read(0, len(reader)).astype("int64"))
    shape = replace(shape, batch=shape.batch // seat.size)
    crops = random_crops(ids, shape, torch.Generator().manual_seed(seat.rank))
    optimizer = make_optimizer(model, shape)
    if seat.size > 1:
        meet(seat)
        dist.init_process_group("gloo")
    whole = nn.parallel.DistributedDataParallel(model) if seat.size > 1 else model

    def step() -> float:
        inputs, labels = next(crops)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(logits(whole, inputs).flatten(0, 1).float(), labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), shape.clip)
        optimizer.step()
        return loss.item()

    return step


def plain_step(seat: Seat, folder: Path, shape: Settings, precision: str, _: ExitStack) -> Step:
    """The same GPT in plain PyTorch."""
    return loop_step(
        seat, PlainGPT(VOCAB, shape), lambda model, inputs: model(inputs), folder, shape, precision
    )


def hugging_face_step(seat: Seat, folder: Path, shape: Settings, precision: str, _: ExitStack) -> Step:
    """`GPT2LMHeadModel` with its defaults and no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=shape.context,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    return loop_step(seat, model, lambda model, inputs: model(inputs).logits, folder, shape, precision)


def contenders(folder: Path, shape: Settings, precision: str, processes: int) -> dict[str, Contender]:
    """Who trains this in so many processes; ours first."""
    common = (folder, shape, precision)
    ours = {
        f"ours, {layout}" if processes > 1 else "ours": Contender(our_step, (*common, overrides), processes)
        for layout, overrides in (LAYOUTS if processes > 1 else {"": ()}).items()
    }
    loops = {
        PLAIN: Contender(plain_step, common, processes),
        HUGGING_FACE: Contender(hugging_face_step, common, processes),
    }
    return ours | loops


def measure(quick: bool) -> Report:
    """Let the contenders of each size, precision and number of processes take turns."""
    rows: list[tuple[str, ...]] = []
    targets = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(folder / "shards", small_tokenizer(VOCAB), TOKENS)
        for size in SIZES[:1] if quick else SIZES:
            for processes in (1, 2):
                for precision in PRECISIONS:
                    racing = contenders(folder, size.shape, precision, processes)
                    found = race(racing, 3 if quick else size.rounds, size.steps)
                    tokens = size.shape.batch * size.shape.context
                    rows += rows_of(found, tokens, (size.name, precision, str(processes)))
                    targets += [
                        Target(
                            f"{size.name}, {precision}: tokens/s, ours / {other}",
                            ratio(found[other], found["ours"]),
                            bound,
                        )
                        for other, bound in TARGETS.items()
                        if processes == 1
                    ]
    shapes = "; ".join(
        f"{size.name}: {size.shape.layers} layers, hidden {size.shape.hidden}, {size.shape.heads} heads, "
        f"sequence {size.shape.context}, batch {size.shape.batch}, {size.rounds} turns of {size.steps} steps"
        for size in SIZES
    )
    question = (
        f"Training a GPT with a vocabulary of {VOCAB:,} on {THREADS} threads in all, in one process or two. "
        f"{shapes}. bf16: ours keeps bf16 weights with fp32 masters, the others autocast fp32 weights. In "
        "two processes the others are under DistributedDataParallel. Median (middle half) of turns; `ours "
        "/ this` is of tokens/s, and ours is the first of its group."
    )
    header = ("size", "precision", "processes", "contender", "tokens/s", "ms a step", "ours / this")
    return Report("training", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
