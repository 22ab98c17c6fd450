"""One rank of the tests of image evaluations.

Argument: {"train": config?, "accuracy": run?, "comparisons": {name: {...}}, "shards": {...}, "output": path}.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools.images.reader import ImageReader
from evals.evaluate import evaluate
from evals.images.extractors import open_extractor
from evals.images.generated import ImageComparison, compare
from evals.images.options import ImageEvalOptions
from evals.request import EvalRequest
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError


class Noise:
    """Images that are a pure function of (seed, id); kind "copies": those of a directory, again and again."""

    channels, image_size = 1, 8

    def __init__(self, copied: str | None) -> None:
        self._copied = ImageReader(copied) if copied else None

    def generate(self, ids: Sequence[int]) -> Tensor:
        if self._copied is not None:
            pictures = [self._copied.pixels(7 * number % len(self._copied)) for number in ids]
        else:
            draws = [np.random.default_rng([1, number]) for number in ids]
            pictures = [draw.integers(0, 2, (1, 8, 8), dtype=np.uint8) * 255 for draw in draws]
        return torch.from_numpy(np.stack(pictures))


def answer(asked: dict[str, Any], world: DistContext) -> dict[str, Any]:
    said: list[str] = []
    try:
        extractor = open_extractor(ImageEvalOptions(extractor=asked["extractor"]), world.device, said.append)
        comparison = ImageComparison(
            generator=Noise(asked.get("copied")),
            extractor=extractor,
            reference=tuple(ImageReader(path) for path in asked["reference"]),
            training=tuple(ImageReader(path) for path in asked["training"]),
            samples=asked.get("samples"),
            cache=Path(asked["cache"]) if "cache" in asked else None,
        )
        metrics, spec = compare(comparison, world, said.append)
    except UserError as error:
        return {"refused": str(error)}
    return {"metrics": metrics, "spec": spec, "said": said}


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers: dict[str, Any] = {}
    with init_distributed() as world:
        if "train" in asked:
            train(load_config(asked["train"], (), world.size), world)
        if "accuracy" in asked:
            result = evaluate(asked["accuracy"], world, EvalRequest())
            answers["accuracy"] = {"metrics": result.metrics, "spec": result.spec}
        for name, comparison in asked["comparisons"].items():
            answers[name] = answer(comparison, world)
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
