"""Compares two runs bit by bit, and two checkpoints by how far their tensors are apart."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.checkpoint import Checkpoint, Group, newest_good, open_checkpoint
from pretrain.errors import IntegrityError
from pretrain.run.folder import RunFolder
from pretrain.tracking.journal import curve, read

CURVES = {"loss": "losses", "grad_norm": "gradient norms", "lr": "learning rates"}
STATE = ("step", "samples", "tokens", "updates")
IN_A_LAYER = (
    "input_layernorm",
    "linear_qkv",
    "linear_proj",
    "self_attn_bda",
    "pre_mlp_layernorm",
    "linear_fc1",
    "linear_fc2",
    "mlp_bda",
)


@dataclass(frozen=True)
class RunComparison:
    """One kind of thing that two runs must have in common, bit by bit."""

    what: str
    compared: int
    differing: int
    first: str | None
    """The first that differs, with both values."""


def compare_runs(one: Path, other: Path) -> list[RunComparison]:
    """Compare curves and newest checkpoints of two runs; they are equal if every `differing` is 0.

    Raises IntegrityError if one has no journal or no good checkpoint.
    """
    curves = [_compare_curves(one, other, metric) for metric in CURVES]
    pair = newest(one), newest(other)
    return [
        *curves,
        _compare_state(*pair),
        compare_tensors(*pair, "weights"),
        compare_tensors(*pair, "optimizer"),
    ]


def newest(run: Path) -> Checkpoint:
    """Open the newest good checkpoint of a run. Raises IntegrityError if there is none."""
    path, _ = newest_good(run)
    if path is None:
        raise IntegrityError(f"{run}: has no checkpoint")
    return open_checkpoint(path)


def last_step(run: Path) -> int:
    """The last step in a run's journal; 0 if there is none yet."""
    try:
        return max((step for step, _ in curve(read(RunFolder(run).metrics), "loss")), default=0)
    except FileNotFoundError:
        return 0


def _compare_curves(one: Path, other: Path, metric: str) -> RunComparison:
    pairs = [list(curve(read(RunFolder(run).metrics), metric)) for run in (one, other)]
    steps = sorted({step for points in pairs for step, _ in points})
    values = [[[repr(value) for at, value in points if at == step] for step in steps] for points in pairs]
    differing = [
        f"step {step}: {metric} {_said(a)} and {_said(b)}"
        for step, a, b in zip(steps, *values, strict=True)
        if a != b or len(a) != 1
    ]
    return RunComparison(CURVES[metric], len(steps), len(differing), differing[0] if differing else None)


def _said(values: Sequence[str]) -> str:
    return " twice or more: ".join(values) if values else "missing"


def _compare_state(one: Checkpoint, other: Checkpoint) -> RunComparison:
    differing = [
        f"state.json: {key} {one.state.get(key)} and {other.state.get(key)}"
        for key in STATE
        if key not in one.state or one.state[key] != other.state.get(key)
    ]
    return RunComparison("counters", len(STATE), len(differing), differing[0] if differing else None)


def compare_tensors(one: Checkpoint, other: Checkpoint, group: Group) -> RunComparison:
    """Compare every logical tensor of a group, bit by bit, in the order of the forward pass."""
    keys = sorted({*one.keys(group), *other.keys(group)}, key=forward_order)
    differing = []
    for key in keys:
        missing = next((side for side in (one, other) if key not in side.index), None)
        if missing is not None:
            differing.append(f"{key}: missing in {missing.path}")
            continue
        a, b = one.read(key), other.read(key)
        if not same_bits(a, b):
            differing.append(f"{key}: {describe_difference(a, b)}")
    names = {"weights": "weights", "optimizer": "optimizer state"}
    return RunComparison(names[group], len(keys), len(differing), differing[0] if differing else None)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal in shape, dtype and every bit; a NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def describe_difference(a: torch.Tensor, b: torch.Tensor) -> str:
    """How many elements differ and by how much."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{list(a.shape)} {a.dtype} and {list(b.shape)} {b.dtype}"
    apart = (a.double() - b.double()).abs()
    return f"{int((apart != 0).sum()):,} of {a.numel():,} elements differ, by up to {float(apart.max()):.3g}"


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """2-norm of the difference relative to the norm of the larger tensor; 0 if both are 0."""
    a, b = a.double(), b.double()
    scale = float(torch.maximum(a.norm(), b.norm()))
    distance = float((a - b).norm())
    return distance / scale if scale > 0 else distance


def forward_order(key: str) -> tuple[int, int, int, str]:
    """Sort key of logical names in forward order: embeddings, layers from first to last, norm, head."""
    layer = re.search(r"\.layers\.(\d+)\.", key)
    if layer:
        place = next((n for n, part in enumerate(IN_A_LAYER) if part in key), len(IN_A_LAYER))
        return 1, int(layer[1]), place, key
    return (0 if "embedding" in key else 3 if "output_layer" in key else 2), 0, 0, key
