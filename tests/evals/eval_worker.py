"""One rank of the evaluation tests: scores a checkpoint on several layouts in turn.

Argument: {"checkpoint": path, "output": path, "runs": {name: {"overrides": [...], "stride": N,
"data": [...]}}, "brute": {"stride": N, "windows": N}}; "brute" asks for an evaluation written down from the
definition.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from evals.evaluate import evaluate
from evals.request import EvalRequest
from pretrain.distributed.world import DistContext, init_distributed


def by_definition(world: DistContext, checkpoint: str, stride: int, windows: int) -> dict[str, Any]:
    """NLL of each label by a forward pass of its own, with the context that the definition gives it."""
    from pretrain.checkpoint import resolve
    from pretrain.config.sections import ParallelConfig
    from pretrain.data.sources import open_validation
    from pretrain.kinds import kind_of
    from pretrain.megatron.parallel_dims import build_parallel_dims
    from pretrain.megatron.restore import load_model, open_saved_model, with_layout

    saved = open_saved_model(resolve(checkpoint))
    config = with_layout(saved.config, ParallelConfig())
    sources = open_validation(config)
    assert sources is not None
    layout = build_parallel_dims(world, config.parallel)
    model = load_model(saved, config, layout, kind_of(config).spec(config, layout))
    model.wrapped[0].eval()
    length = config.batch.sequence_length
    source = sources[0]
    stream = torch.from_numpy(source.reader.read(source.start, source.stop).astype("int64"))
    nll, labels = 0.0, range(1, min(len(stream), windows * length + 1))
    for label in labels:
        start = max(0, -(-(label - length) // stride)) * stride
        ids = stream[start:label][None]
        with torch.no_grad():
            logits = model.wrapped[0](ids, torch.arange(ids.shape[1])[None], None)[0, -1]
        vocab = model.chunks[0].true_vocab_size
        nll -= float(torch.log_softmax(logits[:vocab].double(), -1)[stream[label]])
    return {"nll": nll, "labels": len(labels)}


def main() -> None:
    from megatron.core import parallel_state

    asked = json.loads(sys.argv[1])
    answers: dict[str, Any] = {}
    with init_distributed() as world:
        for name, run in asked["runs"].items():
            options = {key: tuple(value) if isinstance(value, list) else value for key, value in run.items()}
            result = evaluate(asked["checkpoint"], world, EvalRequest(**options))
            answers[name] = {"step": result.step, "metrics": result.metrics, "spec": result.spec}
            parallel_state.destroy_model_parallel()
        if "brute" in asked:
            answers["brute"] = by_definition(world, asked["checkpoint"], **asked["brute"])
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
