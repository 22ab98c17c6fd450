"""Tokens a second, MFU and memory of training on one GPU, against Hugging Face and plain compiled PyTorch.

    python benchmarks/gpu.py                # 350M and 1.3B parameters, bf16, context 2,048
    python benchmarks/gpu.py --quick        # very small ones, to see that it works; on a CPU too

Each contender has the GPU to itself, in a process of its own, and they take turns as whole processes: two
would not fit beside each other. Ours is a whole `Trainer.step`: data, reductions, verdicts, AdamW with fp32
master weights. Hugging Face's GPT-2 (SDPA, compiled) and a plain compiled GPT are the loop that a user would
write: random crops, autocast, cross entropy, clipping, fused AdamW. MFU is of the dense peak, and of what a
bf16 product of 8,192 x 8,192 matrices reaches on the same GPU in the same run; memory is beside what
`pretrain plan` says.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from measure import Report, Table, Target, main, timed

VOCAB = 32_000
CONTENDERS = ("ours", "plain PyTorch, compiled", "Hugging Face, compiled")


@dataclass(frozen=True)
class Case:
    """A model and its batch."""

    name: str
    layers: int
    hidden: int
    heads: int
    context: int
    batch: int
    vocabulary: int
    steps: int
    rounds: int


CASES = (
    Case("350M", 24, 1024, 16, 2048, 8, VOCAB, 20, 3),
    Case("1.3B", 24, 2048, 16, 2048, 4, VOCAB, 20, 3),
)
QUICK = (Case("quick", 2, 64, 4, 64, 2, 512, 3, 1),)
WARM_UP = 5


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def our_config(case: Case, folder: Path, shards: Path) -> Any:
    """The config of our run."""
    from corpus import gpt_tree

    from pretrain.config.sections import GptConfig

    tree: dict[str, Any] = gpt_tree(folder / "run", shards)
    tree["model"] |= {
        "num_layers": case.layers,
        "hidden_size": case.hidden,
        "num_attention_heads": case.heads,
    }
    tree["batch"] = {"global_size": case.batch, "micro_size": case.batch, "sequence_length": case.context}
    return GptConfig.model_validate(tree | {"precision": "bf16"})


def our_step(case: Case, folder: Path, shards: Path, stack: ExitStack) -> Callable[[], object]:
    """The step of our trainer in a world of one."""
    from pretrain.launch import Place, join_world
    from pretrain.trainer import Trainer

    world = stack.enter_context(join_world(Place(0, 1, 0, "alone")))
    trainer = Trainer(our_config(case, folder, shards), world)
    numbers = iter(range(1_000_000))
    return lambda: trainer.step(next(numbers))


def loop_step(case: Case, shards: Path, contender: str) -> Callable[[], object]:
    """The step of a plain loop."""
    import torch
    from plain_gpt import PlainGPT, Settings, make_optimizer, random_crops
    from torch.nn import functional

    from data_tools.reader import ShardReader

    where = device()
    settings = Settings(case.layers, case.heads, case.hidden, case.context, case.batch, bias=True)
    reader = ShardReader(shards)
    ids = torch.from_numpy(reader.read(0, len(reader)).astype("int64"))
    crops = random_crops(ids, settings, torch.Generator().manual_seed(0))
    model = (PlainGPT(case.vocabulary, settings) if contender.startswith("plain") else hugging_face(case)).to(
        where
    )
    optimizer = make_optimizer(model, settings)
    compiled: Any = torch.compile(model) if where.type == "cuda" else model

    def step() -> float:
        inputs, labels = (each.to(where, non_blocking=True) for each in next(crops))
        with torch.autocast(where.type, torch.bfloat16):
            answer = compiled(inputs)
            logits = answer if isinstance(answer, torch.Tensor) else answer.logits
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        return loss.item()

    return step


def hugging_face(case: Case) -> Any:
    """`GPT2LMHeadModel` of the same shape, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=case.vocabulary,
        n_positions=case.context,
        n_embd=case.hidden,
        n_layer=case.layers,
        n_head=case.heads,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        use_cache=False,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).train()


def serve(case: Case, contender: str, folder: Path, shards: Path, output: Path) -> None:
    """A contender's process: seconds of each step after the warm-up, and the most memory allocated."""
    import torch

    torch.manual_seed(0)
    seconds = []
    with ExitStack() as stack:
        if contender == "ours":
            step = our_step(case, folder, shards, stack)
        else:
            step = loop_step(case, shards, contender)
        for _ in range(WARM_UP):
            step()
        for _ in range(case.steps):
            seconds.append(timed(step))  # it ends with the loss on the host, so the GPU has done it
    memory = torch.cuda.max_memory_allocated() if device().type == "cuda" else 0
    output.write_text(json.dumps({"seconds": median(seconds), "memory": memory}))


def product_rate() -> float:
    """FLOP/s of a large bf16 matrix product."""
    import torch

    where, size = device(), 8192 if device().type == "cuda" else 256
    a = torch.randn(size, size, device=where, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        best = min(best, timed(lambda: (a @ a)[0, 0].item()))
    return 2 * size**3 / best


def run(case: Case, contender: str, folder: Path, shards: Path) -> dict[str, float]:
    """One process of a contender."""
    output = folder / "found.json"
    command = [sys.executable, __file__, "--serve", json.dumps(asdict(case)), contender, str(folder)]
    subprocess.run([*command, str(shards), str(output)], check=True)
    found: dict[str, float] = json.loads(output.read_text())
    return found


def rows_of(case: Case, folder: Path) -> tuple[list[tuple[str, ...]], list[Target]]:
    """All contenders of a case, round by round."""
    from corpus import random_shards, small_tokenizer

    from pretrain.flops import flops_per_token, peak_flops
    from pretrain.plan.hardware import make_cluster
    from pretrain.plan.text_plan import plan_text

    shards = random_shards(folder / "shards", small_tokenizer(case.vocabulary), 64 * case.context)
    config = our_config(case, folder, shards)
    flops = flops_per_token(config, case.vocabulary, case.context)
    peak, product = peak_flops(config, device()), product_rate()
    found: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(case.rounds):
        for contender in CONTENDERS:
            found[contender].append(run(case, contender, folder, shards))
    rates = {
        contender: [case.batch * case.context / each["seconds"] for each in turns]
        for contender, turns in found.items()
    }
    planned = plan_text(config, case.vocabulary, make_cluster("h200-141g", 1, None, None, None))
    rows, targets = [], []
    for contender in CONTENDERS:
        rate = median(rates[contender])
        share = median(a / b for a, b in zip(rates["ours"], rates[contender], strict=True))
        mfu = f"{rate * flops / peak:.1%}" if peak else "no peak known"
        memory = f"{max(each['memory'] for each in found[contender]) / 1e9:.1f}"
        plan = f"{planned.fullest.total / 1e9:.1f}" if contender == "ours" else ""
        ofproduct = f"{rate * flops / product:.1%}"
        rows.append((case.name, contender, f"{rate:,.0f}", mfu, ofproduct, memory, plan, f"{share:.3f}"))
        if contender != "ours":
            targets.append(Target(f"{case.name}: tokens/s, ours / {contender}", share, 1.0))
    if peak:
        targets.append(Target(f"{case.name}: MFU", median(rates["ours"]) * flops / peak, 0.5))
    return rows, targets


def measure(quick: bool) -> Report:
    """Every case."""
    import torch

    if device().type != "cuda" and not quick:
        sys.exit("this needs a GPU; --quick tries the script on a CPU")
    rows, targets = [], []
    for case in QUICK if quick else CASES:
        with tempfile.TemporaryDirectory() as name:
            more, bounds = rows_of(case, Path(name))
        rows += more
        targets += bounds
    what = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    question = (
        f"Training GPTs on one {what}, bf16. GB: the most that torch had allocated, beside the plan's total. "
        "Medians of the rounds; `ours / this` is of tokens/s."
    )
    header = ("model", "contender", "tokens/s", "MFU", "of a product", "GB", "plan, GB", "ours / this")
    return Report("gpu", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Case(**json.loads(sys.argv[2])), sys.argv[3], *map(Path, sys.argv[4:]))
    else:
        main(measure, __doc__)
