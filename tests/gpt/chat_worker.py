"""One rank of the tests of fine-tuning on conversations: trains each asked-for run for some steps.

Argument: {"output": path, "steps": N, "config": path, "runs": {name: {"overrides": [...], "spoil": name}}}.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from pretrain.distributed.world import DistContext, init_distributed


def spoiled(what: str | None) -> Any:
    """Batches with something wrong: other labels where none counts, or where all do, or no documents."""
    from pretrain.gpt.chat.data import ChatSequences

    honest = ChatSequences.batch

    def batch(sequences: ChatSequences, rows: Any) -> Any:
        found = honest(sequences, rows)
        counts = found.loss_mask > 0
        if what == "leak":
            assert found.document_ids is not None
            return replace(found, document_ids=None)
        others = (found.labels + 1) % 257
        keep = counts if what == "labels of prompts" else ~counts
        return replace(found, labels=found.labels.where(keep, others))

    return mock.patch.object(ChatSequences, "batch", batch) if what else nullcontext()


def train(world: DistContext, config_path: str, run: dict[str, Any], steps: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    from pretrain.config.load import load_config
    from pretrain.config.sections import ChatConfig
    from pretrain.gpt.chat.trainer import ChatTrainer

    config = load_config(config_path, run["overrides"], world.size).config
    assert isinstance(config, ChatConfig)
    with spoiled(run.get("spoil")):
        trainer = ChatTrainer(config, world)
        results = [trainer.step(step) for step in range(steps)]
        validation = trainer.validate(steps)
    parallel_state.destroy_model_parallel()
    return {
        "losses": [result.loss for result in results],
        "norms": [result.metrics["grad_norm"] for result in results],
        "accuracies": [result.metrics["training_accuracy"] for result in results],
        "validation": validation,
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        curves = {
            name: train(world, asked["config"], run, asked["steps"]) for name, run in asked["runs"].items()
        }
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
