"""`pretrain parity`: every layout trains the same model, shown on a user's config at reduced depth.

The same few steps are trained in one process and in each layout, from the seed alone. If a curve differs, one
more step is trained in both, and the first tensor that differs is named.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint, open_checkpoint
from pretrain.checkpoint.layout import checkpoints_folder, step_name
from pretrain.config.optimizers import OPTIMIZERS
from pretrain.config.sections import CheckpointConfig, CorpusConfig, ParallelConfig, TextEvalConfig
from pretrain.distributed.spawn import spawn
from pretrain.errors import IntegrityError, UserError
from pretrain.proofs.compare import apart, describe_difference, forward_order, same_bits
from pretrain.proofs.layouts import ProofLayout, asked_layouts, default_layouts, layers_for, with_layers
from pretrain.proofs.rank import Curve, Plan, read_curves
from pretrain.proofs.scratch import columns, load_for_proof, proof_config, scratch_folder, write_config

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}
"""Largest difference of a loss or a gradient norm; relative if the number itself is above 1."""
GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Largest difference of a gradient or an update, relative to its norm, that rounding explains."""
UPDATE_TOLERANCE = 0.2
"""The same for updates: Adam's first step turns the rounding of tiny gradients into whole steps."""
ONE = "one process"


@dataclass(frozen=True)
class _Proof:
    config: CorpusConfig
    """At reduced depth, without dropout."""
    layouts: Sequence[ProofLayout]
    steps: int
    scratch: Path

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.config.precision]


def parity_command(
    path: str, layouts: str | None, steps: int, out: str | None, overrides: Sequence[str]
) -> None:
    """Prove that this config trains the same in several layouts.

    Args:
        layouts: names joined by commas; None: the config's own and every one that splits one thing in two.
        steps: optimizer steps of each.
        out: where the scratch folder is made; None: beside `run.dir`.

    Raises:
        UserError: the config, its data or a layout's name are wrong, or a run failed.
        IntegrityError: a layout differs from one process; names the first tensor that does.
    """
    config = load_for_proof(path, overrides, None)
    chosen, left_out = (asked_layouts(config, layouts), []) if layouts else default_layouts(config)
    for line in left_out:
        print(f"left out {line}")
    layers = layers_for(chosen)
    dropout = f", dropout 0 instead of {config.model.dropout}" if config.model.dropout else ""
    print(
        f"{counted(layers, 'layer')} instead of {config.model.num_layers}{dropout}; "
        f"{counted(steps, 'step')}; {config.precision}"
    )
    model = with_layers(config, layers).model.model_copy(update={"dropout": 0.0})
    with scratch_folder(config.run.dir, out, "parity") as scratch:
        proof = _Proof(config.model_copy(update={"model": model}), chosen, steps, scratch)
        _judge(proof, _train(proof, chosen, "curves", steps, keep_tensors=False))


def _train(
    proof: _Proof, layouts: Sequence[ProofLayout], name: str, steps: int, *, keep_tensors: bool
) -> dict[str, Curve]:
    """Curves of one process and of these layouts, by name."""
    one = ProofLayout(ParallelConfig(recompute=proof.config.parallel.recompute))
    worlds: dict[int, list[ProofLayout]] = {}
    for layout in (one, *layouts):
        worlds.setdefault(layout.processes, []).append(layout)
    curves: dict[str, Curve] = {}
    for processes, members in sorted(worlds.items()):
        folder = proof.scratch / f"{name}-{processes}"
        folder.mkdir()
        configs = {layout.name: str(_write(proof, folder, layout, steps)) for layout in members}
        plan = Plan(configs, steps, str(folder / "curves.json"), keep_tensors)
        plan.write(folder / "plan.json")
        began = time.monotonic()
        code = spawn([sys.executable, "-m", "pretrain.proofs.rank", str(folder / "plan.json")], processes)
        if code != 0:
            error = UserError(f"training {', '.join(configs)} ended with exit code {code}")
            error.exit_code = code
            raise error
        print(f"{', '.join(configs)}: {time.monotonic() - began:.0f} s", flush=True)
        curves |= read_curves(Path(plan.curves))
    return curves


def _write(proof: _Proof, folder: Path, layout: ProofLayout, steps: int) -> Path:
    config = proof_config(proof.config, folder / layout.name.replace(" ", "-"), max(steps, proof.steps))
    reduced = {"parallel": layout.parallel, "checkpoint": CheckpointConfig(), "eval": TextEvalConfig()}
    return write_config(folder, layout.name, config.model_copy(update=reduced))


def _judge(proof: _Proof, curves: dict[str, Curve]) -> None:
    rows = [("layout", "processes", "loss differs by", "gradient norm by", "verdict")]
    different = []
    for layout in proof.layouts:
        loss = largest_difference(curves[ONE].losses, curves[layout.name].losses)
        norm = largest_difference(curves[ONE].gradient_norms, curves[layout.name].gradient_norms)
        good = loss <= proof.tolerance and norm <= proof.tolerance
        rows.append(
            (layout.name, str(layout.processes), f"{loss:.1e}", f"{norm:.1e}", "same" if good else "DIFFERS")
        )
        if not good:
            different.append(layout)
    print("\n" + columns(rows) + "\n")
    if different:
        raise IntegrityError(_explain(proof, different))
    print(
        f"{counted(len(proof.layouts), 'layout')} trained as one process did: "
        f"{counted(proof.steps, 'step')} within "
        f"{proof.tolerance:g}, loss {curves[ONE].losses[0]:.4f} to {curves[ONE].losses[-1]:.4f}"
    )


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest difference of two curves, relative if the number is above 1; infinite for a NaN."""
    found = [abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other, strict=True)]
    return max(value if value == value else float("inf") for value in found)


def _explain(proof: _Proof, different: Sequence[ProofLayout]) -> str:
    """Train one step, keeping tensors, and name the first one that differs in each layout."""
    print("looking for the first tensor that differs", flush=True)
    _train(proof, different, "tensors", 1, keep_tensors=True)
    lines = []
    for layout in different:
        folders = [
            proof.scratch / f"tensors-{size}" / name
            for size, name in ((1, "one-process"), (layout.processes, layout.name))
        ]
        before, after = ([_saved(folder, step) for folder in folders] for step in (0, 1))
        lines.append(f"\n  {layout.name}: {first_difference(before, after, proof.config)}")
    return f"not within {proof.tolerance:g} of one process:" + "".join(lines)


def _saved(run: Path, step: int) -> Checkpoint:
    return open_checkpoint(checkpoints_folder(run) / step_name(step))


def first_difference(before: Sequence[Checkpoint], after: Sequence[Checkpoint], config: CorpusConfig) -> str:
    """The first tensor, in the order of the forward pass, in which two runs differ by more than rounding.

    Args:
        before: both runs' checkpoints of step 0.
        after: both runs' checkpoints of step 1.

    Returns:
        A sentence. Initial weights are compared first, then gradients (the optimizer's first state after one
        step, such as Adam's first moment), then updates.
    """
    keys = sorted(before[0].keys("weights"), key=forward_order)
    for key in keys:
        a, b = (saved.read(key) for saved in before)
        if not same_bits(a, b):
            return f"the initial weights of {key} differ: {describe_difference(a, b)}"
    worst, moment = (0.0, ""), OPTIMIZERS[config.optimizer.kind].state[0]
    for key in keys:
        distance = apart(*(saved.read(f"optimizer.{moment}.{key}") for saved in after))
        worst = max(worst, (distance, key))
        if not distance <= GRADIENT_TOLERANCE[config.precision]:
            return f"{key} is the first whose gradient in step 1 differs, by {distance:.1e} of its norm"
    for key in keys:
        updates = [
            saved.read(key).double() - start.read(key).double()
            for saved, start in zip(after, before, strict=True)
        ]
        distance = apart(*updates)
        if not distance <= UPDATE_TOLERANCE:
            return f"{key} is the first whose update in step 1 differs, by {distance:.1e} of its norm"
    return (
        f"no tensor stands out after step 1 (the largest difference of a gradient: {worst[1]}, by "
        f"{worst[0]:.1e} of its norm), so what differs comes later"
    )
