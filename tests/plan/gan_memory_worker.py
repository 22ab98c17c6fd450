"""One rank that trains each asked-for GAN for three steps and writes what it holds, computes and sends.

Argument: {"output": path, "cases": {name: changes of the small config}}.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves

from pretrain.distributed.world import DistContext, init_distributed

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "parity")]

MESSAGE = 400
"""Collectives of fewer bytes agree on numbers, or sum statistics of a batch."""

LOOKS = 12


def make_books() -> Any:
    from pretrain.plan.cost_counter import CostCounter

    class Books(CostCounter):
        """A ledger of real tensors and of large collectives."""

        sent = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "c10d":
                tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
                largest = max(tensor.numel() * tensor.element_size() for tensor in tensors)
                size = torch.distributed.get_world_size()
                times = 2 if "allreduce" in func._overloadpacket.__name__ else 1
                self.sent += times * largest * (size - 1) / size if largest >= MESSAGE else 0
            return super().__torch_dispatch__(func, types, args, kwargs)

        def _remember(self, tensor: torch.Tensor) -> None:
            if tensor.device.type != "meta":  # DeepSpeed keeps shapes as such
                super()._remember(tensor)

    return Books()


def settled(books: Any) -> int:
    """Bytes that stay: gloo's threads let go of what they have reduced a moment after it is done."""
    torch.distributed.barrier()
    gc.collect()
    found = [books.live]
    for _ in range(LOOKS):
        time.sleep(0.01)
        found.append(books.live)
    return min(found)


def measure(world: DistContext, changes: dict[str, Any]) -> dict[str, Any]:
    from gan_configs import gan_config
    from gan_images import RandomImages

    from pretrain.gan import trainer as gan_trainer

    config = gan_config(**changes)
    images = RandomImages(config.model.image_size)
    found: dict[str, Any] = {}
    with (
        mock.patch.object(gan_trainer, "open_images", lambda *_: images),
        mock.patch("pretrain.training.trainer.ReplicaCheck"),  # which has a table of its own
        make_books() as books,
    ):
        trainer = gan_trainer.GanTrainer(config, world)
        trainer.step(0)
        trainer.step(1)

        def booked(update: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(*arguments: int) -> Any:
                before, flops, sent = settled(books), books.work.flops, books.sent
                books.peak = before
                answer = update(*arguments)
                found[name] = {
                    "peak": books.peak - before,
                    "flops": books.work.flops - flops,
                    "sent": books.sent - sent,
                }
                return answer

            return call

        game = trainer.gan_step
        game.discriminator_update = booked(game.discriminator_update, "discriminator")  # type: ignore[method-assign]
        game.generator_update = booked(game.generator_update, "generator")  # type: ignore[method-assign]
        trainer.step(2)
        found["held"] = settled(books)
        for network in trainer.networks:
            network.engine.close()
    return found


def main() -> None:
    argument = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with init_distributed() as world:
        import deepspeed  # noqa: F401

        gc.freeze()  # what modules hold need not be looked through in every collection
        found = {name: measure(world, changes) for name, changes in argument["cases"].items()}
        Path(f"{argument['output']}-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
