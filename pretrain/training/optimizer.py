"""The optimizer of a model that every rank holds whole; gradients are summed over ranks in one message."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.config.optimizers import OPTIMIZERS
from pretrain.config.sections import OptimizerConfig
from pretrain.distributed.world import DistContext


class DataParallelOptimizer:
    """The optimizer. Reduction and update are separate calls, so that a verdict can stand between them."""

    def __init__(self, settings: OptimizerConfig, model: Module, world: DistContext) -> None:
        """Create all optimizer state now, so that a checkpoint can be loaded before the first step."""
        self.world = world
        self._updates = 0
        self._clip = settings.clip_grad
        self._named = dict(model.named_parameters())
        parameters = list(self._named.values())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            # Biases and norms are not decayed.
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        record = OPTIMIZERS[settings.kind]
        self._torch, self._state = record.make(groups, settings), record.state
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
            self._torch.state[parameter] = {name: torch.zeros_like(parameter) for name in self._state}
            self._torch.state[parameter]["step"] = torch.zeros((), dtype=torch.float32)

    def forget_gradients(self) -> None:
        """Zero the gradients before the first micro-batch of a step."""
        # `reduce` needs a gradient for every parameter on every rank, so they are zeroed, not removed.
        self._torch.zero_grad(set_to_none=False)

    def reduce(self) -> Tensor:
        """Sum the gradients over all ranks and return the 2-norm of the sum, [] float64 on the device."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        flat = torch.cat([gradient.view(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        norm: Tensor = flat.double().norm()
        return norm

    def update(self, learning_rate: float, norm: float) -> None:
        """Clip the summed gradients, whose norm is `norm`, and take a step."""
        if self._clip and norm > self._clip:
            for parameter in self._named.values():
                assert parameter.grad is not None
                # The same epsilon as torch's clip_grad_norm_.
                parameter.grad.mul_(self._clip / (norm + 1e-6))
        for group in self._torch.param_groups:
            group["lr"] = learning_rate
        self._torch.step()
        self._updates += 1

    @property
    def updates(self) -> int:
        """Updates done."""
        return self._updates

    @updates.setter
    def updates(self, updates: int) -> None:
        self._updates = updates
        for state in self._torch.state.values():
            state["step"].fill_(updates)

    def pieces(self) -> Iterator[ShardedTensor]:
        """Weights and the optimizer's state. Every rank holds all of them; rank 0 writes them."""
        owner = self.world.is_first
        for name, parameter in self._named.items():
            yield ShardedTensor.whole(name, parameter.detach(), owner=owner)
            for kept in self._state:
                state = self._torch.state[parameter][kept]
                yield ShardedTensor.whole(f"optimizer.{kept}.{name}", state, "optimizer", owner)
