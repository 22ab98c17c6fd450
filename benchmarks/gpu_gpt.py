"""Tokens a second, MFU and memory of training on one GPU, against Hugging Face and plain compiled PyTorch.

    python benchmarks/gpu_gpt.py                # 350M and 1.3B parameters, bf16, context 2,048
    python benchmarks/gpu_gpt.py --quick        # very small ones, to see that it works; on a CPU too

Ours is a whole `Trainer.step`: data, reductions, verdicts, AdamW with fp32 master weights. Hugging Face's
GPT-2 (SDPA) and a plain GPT are the loop that a user would write: random crops, autocast, model and cross
entropy compiled together, clipping, fused AdamW. MFU is of the dense peak, and of what a bf16 product of
8,192 x 8,192 matrices reaches on the same GPU in the same run; memory is beside what `pretrain plan` says.
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

import yaml
from corpus import gpt_tree, random_shards, small_tokenizer
from gpu_turns import device, device_name, require_gpu, serve, turns
from measure import Report, Table, Target, main, ratio, timed

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


def our_tree(case: Case, folder: Path, shards: Path) -> dict[str, Any]:
    """The config of our run."""
    tree: dict[str, Any] = gpt_tree(folder / "run", shards)
    tree["model"] |= {
        "num_layers": case.layers,
        "hidden_size": case.hidden,
        "num_attention_heads": case.heads,
    }
    tree["batch"] = {"global_size": case.batch, "micro_size": case.batch, "sequence_length": case.context}
    return tree | {"precision": "bf16"}


def our_step(case: Case, folder: Path, shards: Path, stack: ExitStack) -> Callable[[], object]:
    """The step of our trainer in a world of one."""
    from pretrain.config.sections import GptConfig
    from pretrain.distributed.launcher import RankInfo
    from pretrain.distributed.world import init_distributed
    from pretrain.gpt.trainer import GptTrainer

    world = stack.enter_context(init_distributed(RankInfo(0, 1, 0, "alone")))
    trainer = GptTrainer(GptConfig.model_validate(our_tree(case, folder, shards)), world)
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
    plain = contender.startswith("plain")
    model = (PlainGPT(case.vocabulary, settings) if plain else hugging_face(case)).to(where)
    optimizer = make_optimizer(model, settings)

    def loss_of(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        answer = model(inputs)
        logits = answer if plain else answer.logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    compiled: Any = torch.compile(loss_of) if where.type == "cuda" else loss_of

    def step() -> float:
        inputs, labels = (each.to(where, non_blocking=True) for each in next(crops))
        with torch.autocast(where.type, torch.bfloat16):
            loss = compiled(inputs, labels)
        optimizer.zero_grad()
        loss.backward()
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


def contend(output: str, contender: str, case_as_json: str, folder: str, shards: str) -> None:
    """A contender's process."""
    case = Case(**json.loads(case_as_json))
    paths = Path(folder), Path(shards)

    def make(stack: ExitStack) -> Callable[[], object]:
        return our_step(case, *paths, stack) if contender == "ours" else loop_step(case, paths[1], contender)

    serve(make, case.steps, Path(output))


def product_rate() -> float:
    """FLOP/s of a large bf16 matrix product."""
    import torch

    where, size = device(), 8192 if device().type == "cuda" else 256
    a = torch.randn(size, size, device=where, dtype=torch.bfloat16)
    best = min(timed(lambda: (a @ a)[0, 0].item()) for _ in range(20))
    return 2 * size**3 / best


def planned_bytes(case: Case, folder: Path, shards: Path) -> float:
    """What `pretrain plan` says that a rank needs; a program of its own, as it must not see the GPU."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(our_tree(case, folder, shards)))
    command = [sys.executable, "-m", "pretrain", "plan", str(path), "--gpus", "1", "--json"]
    answer = subprocess.run([*command, "--gpu", "h200-141g"], check=True, stdout=subprocess.PIPE)
    return float(json.loads(answer.stdout)["fullest"])


def rows_of(case: Case, folder: Path) -> tuple[list[tuple[str, ...]], list[Target]]:
    """All contenders of a case, round by round."""
    from pretrain.config.sections import GptConfig
    from pretrain.megatron.flops import flops_per_token, peak_flops

    shards = random_shards(folder / "shards", small_tokenizer(case.vocabulary), 64 * case.context)
    config = GptConfig.model_validate(our_tree(case, folder, shards))
    flops = flops_per_token(config, case.vocabulary, case.context)
    peak, product = peak_flops(config, device()), product_rate()
    planned = planned_bytes(case, folder, shards)
    arguments = json.dumps(asdict(case)), str(folder), str(shards)
    found = turns(__file__, CONTENDERS, case.rounds, *arguments)
    rates = {
        contender: [case.batch * case.context / each["seconds"] for each in turn]
        for contender, turn in found.items()
    }
    rows, targets = [], []
    for contender in CONTENDERS:
        rate, share = median(rates[contender]), ratio(rates["ours"], rates[contender])
        mfu = f"{rate * flops / peak:.1%}" if peak else "no peak known"
        memory = f"{max(each['memory'] for each in found[contender]) / 1e9:.1f}"
        plan = f"{planned / 1e9:.1f}" if contender == "ours" else ""
        of_product = f"{rate * flops / product:.1%}"
        rows.append((case.name, contender, f"{rate:,.0f}", mfu, of_product, memory, plan, f"{share:.3f}"))
        if contender != "ours":
            targets.append(Target(f"{case.name}: tokens/s, ours / {contender}", share, 1.0))
    if peak:
        targets.append(Target(f"{case.name}: MFU", median(rates["ours"]) * flops / peak, 0.5))
    return rows, targets


def measure(quick: bool) -> Report:
    """Every case."""
    require_gpu(quick)
    rows, targets = [], []
    for case in QUICK if quick else CASES:
        with tempfile.TemporaryDirectory() as name:
            more, bounds = rows_of(case, Path(name))
        rows += more
        targets += bounds
    question = (
        f"Training GPTs on one {device_name()}, bf16. GB: the most that torch had allocated, beside the "
        "plan's total. Medians of the rounds; `ours / this` is of tokens/s."
    )
    header = ("model", "contender", "tokens/s", "MFU", "of a product", "GB", "plan, GB", "ours / this")
    return Report("gpu-gpt", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        contend(*sys.argv[2:])
    else:
        main(measure, __doc__)
