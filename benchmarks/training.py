"""Tokens a second of training, ours against the same GPT in plain PyTorch and in Hugging Face.

    python benchmarks/training.py [--quick]

Each contender lives in a process of its own, so that none runs under what another one patches; one trains at
a time, with two threads. Ours is a whole `Trainer.step`: data, schedules, reductions, verdicts, AdamW. The
others are the loop that a user would write: a random crop, forward, cross entropy, backward, clipping, fused
AdamW.
"""

import math
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from corpus import gpt_config, random_shards, small_tokenizer
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed
from plain_gpt import PlainGPT, Settings, make_optimizer, random_crops
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, TOKENS = 4096, 1 << 20
SHAPE = Settings(layers=4, heads=4, hidden=256, context=256, batch=4, bias=True)
THREADS, STEPS_A_TURN, WARM_UP = 2, 4, 4
PRECISIONS = ("fp32", "bf16")
CONTENDERS = ("ours", "plain PyTorch", "Hugging Face")
TARGETS = {"plain PyTorch": 0.97, "Hugging Face": 1.05}

Step = Callable[[], object]
Serve = Callable[[Connection, Path, str, str], None]


def our_step(folder: Path, precision: str, stack: ExitStack) -> Step:
    """The step of our trainer in a world of one."""
    from pretrain.launch import Place, join_world
    from pretrain.trainer import Trainer

    loaded = gpt_config(folder, folder / "shards", f"precision={precision}")
    trainer = Trainer(loaded.config, stack.enter_context(join_world(Place(0, 1, 0, "alone"))))
    numbers = iter(range(1_000_000))
    return lambda: trainer.step(next(numbers))


def loop_step(model: nn.Module, logits: Callable[[Tensor], Tensor], folder: Path, precision: str) -> Step:
    """The step of a plain loop; autocast is how such a loop trains in bf16."""
    from data_tools.reader import ShardReader

    reader = ShardReader(folder / "shards")
    ids = torch.from_numpy(reader.read(0, len(reader)).astype("int64"))
    crops = random_crops(ids, SHAPE, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, SHAPE)

    def step() -> float:
        inputs, labels = next(crops)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(logits(inputs).flatten(0, 1).float(), labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), SHAPE.clip)
        optimizer.step()
        return loss.item()

    return step


def plain_step(folder: Path, precision: str) -> Step:
    """The same GPT in plain PyTorch."""
    model = PlainGPT(VOCAB, SHAPE)
    return loop_step(model, model, folder, precision)


def hugging_face_step(folder: Path, precision: str) -> Step:
    """`GPT2LMHeadModel` with its defaults and no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=SHAPE.context,
        n_embd=SHAPE.hidden,
        n_layer=SHAPE.layers,
        n_head=SHAPE.heads,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    return loop_step(model, lambda inputs: model(inputs).logits, folder, precision)


def serve(connection: Connection, folder: Path, contender: str, precision: str) -> None:
    """A contender's process: the number of steps in, seconds a step out, until the pipe ends."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    with ExitStack() as stack:
        if contender == "ours":
            step = our_step(folder, precision, stack)
        elif contender == "plain PyTorch":
            step = plain_step(folder, precision)
        else:
            step = hugging_face_step(folder, precision)
        for _ in range(WARM_UP):
            step()
        connection.send(None)
        while steps := connection.recv():
            connection.send(median(timed(step) for _ in range(steps)))


def measure(quick: bool) -> Report:
    """Let the contenders of each precision take turns."""
    rounds = 3 if quick else 25
    rows: list[tuple[str, ...]] = []
    targets = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(folder / "shards", small_tokenizer(VOCAB), TOKENS)
        for precision in PRECISIONS:
            found = race(CONTENDERS, serve, folder, precision, rounds)
            for contender in CONTENDERS:
                rates = [SHAPE.batch * SHAPE.context / seconds for seconds in found[contender]]
                share = ratio(found[contender], found["ours"])
                milliseconds = f"{median(found[contender]) * 1e3:.1f}"
                rows.append((precision, contender, spread(rates, ",.0f"), milliseconds, f"{share:.3f}"))
                if contender in TARGETS:
                    what = f"{precision}: tokens/s, ours / {contender}"
                    targets.append(Target(what, share, TARGETS[contender]))
    question = (
        f"Training a GPT of {SHAPE.layers} layers, hidden {SHAPE.hidden}, {SHAPE.heads} heads, sequence "
        f"{SHAPE.context}, batch {SHAPE.batch}, vocabulary {VOCAB:,}: one process, {THREADS} "
        "threads. bf16: ours keeps bf16 weights with fp32 masters, the others autocast fp32 weights. "
        f"Median (middle half) of {rounds} turns of {STEPS_A_TURN} steps; `ours / this` is of tokens/s."
    )
    header = ("precision", "contender", "tokens/s", "ms a step", "ours / this")
    return Report("training", question, [Table(header, rows)], targets)


def race(
    contenders: Sequence[str], serve: Serve, folder: Path, precision: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round, each in a process that `serve` makes."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for contender in contenders:
        own = folder / contender
        own.mkdir(exist_ok=True)
        if not (own / "shards").exists():
            (own / "shards").symlink_to(folder / "shards")
        pipes[contender], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, own, contender, precision), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()
        pipes[contender].recv()

    def turn(contender: str) -> float:
        pipes[contender].send(STEPS_A_TURN)
        seconds = pipes[contender].recv()
        assert isinstance(seconds, float) and math.isfinite(seconds)
        return seconds

    found = take_turns({name: lambda name=name: turn(name) for name in contenders}, rounds)  # type: ignore[misc]
    for connection in pipes.values():
        connection.send(0)
    for process in processes:
        process.join()
    return found


if __name__ == "__main__":
    main(measure, __doc__)
