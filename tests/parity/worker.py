"""One rank of the parity runs: trains each asked-for layout in turn and writes its curve.

Argument: {"output": path, "steps": N, "runs": {name: {"config": path, "overrides": [...], "mutation": name,
"uneven": bool, "validated_after": step}}}. With "uneven", samples have different numbers of labels that
count; "validated_after" is a step after which the model is validated, twice.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from pretrain.distributed.world import DistContext, init_distributed


def train(world: DistContext, steps: int, run: dict[str, Any]) -> dict[str, Any]:
    from megatron.core import parallel_state
    from mutations import mutated

    from pretrain.config.load import load_config
    from pretrain.kinds import kind_of
    from pretrain.training.step_sync import StepSync

    loaded = load_config(run["config"], run["overrides"], world.size)
    with mutated(run.get("mutation")), uneven() if run.get("uneven") else nullcontext():
        trainer: Any = kind_of(loaded.config).trainer(loaded.config, world, StepSync(world), None)
        results, between = [], []
        for step in range(steps):
            results.append(trainer.step(step))
            if run.get("validated_after") == step + 1:
                between = [trainer.validate(step + 1) for _ in range(2)]
        validation = trainer.validate(steps)
    curve = {
        "layout": trainer.layout.describe(),
        "losses": [result.loss for result in results],
        "gradient_norms": [result.metrics["grad_norm"] for result in results],
        "metrics": [dict(result.metrics) for result in results],
        "validation": validation,
        "between": between,
        "replicas_differ": replicas_that_differ(trainer),
    }
    parallel_state.destroy_model_parallel()
    return curve


def uneven() -> Any:
    """Mask the labels of each sample up to a position that depends on its id."""
    from pretrain.gpt.data import TrainingData

    honest = TrainingData.samples

    def masked(data: TrainingData, sample_ids: Any) -> Any:
        batch = honest(data, sample_ids)
        loss_mask = batch.loss_mask.clone()
        for row, sample_id in enumerate(sample_ids):
            loss_mask[row, : sample_id * 7 % 31] = 0
        return replace(batch, loss_mask=loss_mask)

    return mock.patch.object(TrainingData, "samples", masked)


def replicas_that_differ(trainer: Any) -> list[str]:
    """Names of parts of weights that two ranks hold with different bits."""
    import hashlib

    import torch

    from pretrain.megatron.sharding import parameter_shards

    def digest(part: Any) -> str:
        raw = part.view(part.parameter.data.view(-1)).contiguous().view(torch.uint8)
        return hashlib.sha256(raw.numpy().tobytes()).hexdigest()

    parts = parameter_shards(trainer.model.chunks, trainer.layout)
    mine = [(f"{part.key}@{part.offset}", digest(part)) for part in parts]
    everyone: list[Any] = [None] * trainer.layout.world.size
    torch.distributed.all_gather_object(everyone, mine)
    seen: dict[str, str] = {}
    different = set()
    for name, found in (pair for rank in everyone for pair in rank):
        if seen.setdefault(name, found) != found:
            different.add(name)
    return sorted(different)


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        curves = {name: train(world, asked["steps"], run) for name, run in asked["runs"].items()}
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
