"""One rank of models whose numbers go wrong in a known place: says what the step says of it.

Argument: {"output": folder, "cases": {name: {"tree": config, "fault": {...}}}}. A fault is there from its
`step` on, on its `rank` (absent: on all), and is one of

    weight      an element of a weight is NaN
    activation  an element of a module's output is infinite in one micro-batch; `learning`: when it learns
    gradient    that of a weight is `value`; `once`: the first time
    image       the pixels of sample number `sample` are NaN
    carried     an element of the state that an RNN carries is NaN

Writes `rank-N.json`: {name: {"message": of the verdict, or "", "weights": digest after the steps}}.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pretrain.cnn.trainer import CnnTrainer
from pretrain.config.sections import CnnConfig, GanConfig, RnnConfig
from pretrain.data.images import ImageBatch, ImageData
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import HealthError
from pretrain.gan.trainer import GanTrainer
from pretrain.gan.zero_shards import write_back
from pretrain.rnn.trainer import RnnTrainer
from pretrain.training import data_parallel as replica_trainer

STEPS = 4
KINDS: dict[str, Any] = {
    "cnn": (CnnConfig, CnnTrainer),
    "rnn": (RnnConfig, RnnTrainer),
    "gan": (GanConfig, GanTrainer),
}


def networks(trainer: Any) -> dict[str, torch.nn.Module]:
    """By the beginning of their modules' names."""
    if isinstance(trainer, GanTrainer):
        return {f"{network.engine.name}.": network.engine.module for network in trainer.networks}
    return {"": trainer.whole_model}


def found(trainer: Any, name: str, kind: str) -> Any:
    """A module or parameter by its whole name."""
    for prefix, network in networks(trainer).items():
        named = dict(getattr(network, f"named_{kind}")())
        if name.startswith(prefix) and name[len(prefix) :] in named:
            return named[name[len(prefix) :]]
    raise AssertionError(name)


def spoil_weight(trainer: Any, fault: dict[str, Any], mine: bool) -> None:
    """In what the rank updates; a GAN's ranks then compute with it."""
    if not isinstance(trainer, GanTrainer):
        if mine:
            found(trainer, fault["tensor"], "parameters").data.view(-1)[1] = torch.nan
        return
    for network in trainer.networks:
        for part in network.parts:
            if mine and f"{network.engine.name}.{part.name}" == fault["tensor"]:
                part.master.view(-1)[1] = torch.nan
        write_back(network.engine)


def hook_activation(trainer: Any, fault: dict[str, Any]) -> None:
    calls = 0

    def spoil(_module: Any, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        first = output[0] if isinstance(output, tuple) else output
        if fault.get("learning") and not torch.is_grad_enabled():
            return output
        calls += 1
        if (calls - 1) % fault.get("micro_batches", 1) != fault.get("micro_batch", 0):
            return output
        bad = torch.where(torch.arange(first.shape[-1]) == 1, torch.inf, first)
        return (bad, *output[1:]) if isinstance(output, tuple) else bad

    found(trainer, fault["tensor"], "modules").register_forward_hook(spoil)


def hook_gradient(trainer: Any, fault: dict[str, Any]) -> None:
    left = 1 if fault.get("once") else 10**9

    def spoil(gradient: Tensor) -> Tensor:
        nonlocal left
        left -= 1
        return torch.full_like(gradient, float(fault.get("value", "nan"))) if left >= 0 else gradient

    found(trainer, fault["tensor"], "parameters").register_hook(spoil)


@contextmanager
def bad_image(sample: int) -> Iterator[None]:
    honest = ImageData.images

    def images(data: ImageData, sample_ids: Sequence[int]) -> ImageBatch:
        pixels, labels = honest(data, sample_ids)
        if sample in sample_ids:
            pixels = pixels.float()
            pixels[list(sample_ids).index(sample)] = torch.nan
        return ImageBatch(pixels, labels)

    with mock.patch.object(ImageData, "images", images):
        yield


def plant(trainer: Any, fault: dict[str, Any], mine: bool, stack: ExitStack) -> None:
    """All ranks together."""
    if fault["kind"] == "weight":
        spoil_weight(trainer, fault, mine)
    elif not mine:
        return
    elif fault["kind"] == "activation":
        hook_activation(trainer, fault)
    elif fault["kind"] == "gradient":
        hook_gradient(trainer, fault)
    elif fault["kind"] == "image":
        stack.enter_context(bad_image(fault["sample"]))
    else:
        trainer.carried[fault["micro_batch"]][1, 0, 2] = torch.nan


def outcome(world: DistContext, case: dict[str, Any]) -> dict[str, Any]:
    kind, fault = case["tree"]["model"]["kind"], case["fault"]
    config_class, trainer_class = KINDS[kind]
    trainer = trainer_class(config_class.model_validate(case["tree"]), world)
    message = ""
    with ExitStack() as stack:
        if case.get("without_replay"):
            stack.enter_context(mock.patch.object(replica_trainer, "find_nonfinite", return_value=""))
        try:
            for step in range(STEPS):
                if fault and step == fault["step"]:
                    plant(trainer, fault, fault.get("rank", world.rank) == world.rank, stack)
                trainer.step(step)
        except HealthError as error:
            message = str(error)
    if kind == "gan":
        for network in trainer.networks:
            network.engine.close()
        return {"message": message}
    digest = hashlib.sha256()
    for piece in trainer.pieces():
        digest.update(piece.tensor.detach().contiguous().numpy().tobytes())
    return {"message": message, "weights": digest.hexdigest()}


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        outcomes = {name: outcome(world, case) for name, case in asked["cases"].items()}
        Path(asked["output"], f"rank-{world.rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
