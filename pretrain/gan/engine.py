"""One network in a DeepSpeed engine, called in the only order that trains as plain PyTorch does.

For each micro-batch: one `forward`, one `backward`, one `step`. DeepSpeed's stages 1 and 2 silently lose the
first of two backward passes, and silently skip an update whose gradient is not finite. Here the first is
refused and the second ends the run. `module` is the bare network, for passes that the engine must not see: D
in G's step, D's penalties, G in D's step.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config.sections import GanConfig
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError, UserError
from pretrain.gan.settings import deepspeed_config, micro_batches

TESTED = "0.19.8"

log = logging.getLogger(__name__)


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this rank's device; only GAN runs pay for the import.

    Its all-reduce through shared memory is switched off: it is compiled at first use, by a compiler that a
    cluster's nodes may not have, and ranks that die leave its shared memory behind.

    Raises UserError if the version is not the one that the private names used here were tested with.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # DeepSpeed takes its device from it
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    if deepspeed.__version__ != TESTED:
        raise UserError(
            f"deepspeed {deepspeed.__version__} is installed; the GAN trainer is tested with {TESTED}: "
            f"pip install deepspeed=={TESTED}"
        )
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


class Engine:
    """A network, its gradients' reduction and its optimizer.

    Attributes:
        name: generator or discriminator.
        module: the bare network.
        adam: torch's Adam over what this rank holds.
        stage: ZeRO stage.
    """

    def __init__(self, name: str, network: nn.Module, config: GanConfig, world: DistContext) -> None:
        settings, is_generator = config.optimizer, name == "generator"
        self.name = name
        self.stage = config.parallel.generator_stage if is_generator else config.parallel.discriminator_stage
        self.gradient_norm = 0.0
        self._micro_batches = micro_batches(config, world.size)
        self._done = 0
        self._awaits_step = False
        deepspeed = import_deepspeed(world.device)
        rate = settings.lr if is_generator else settings.discriminator_lr or settings.lr
        betas, numbers = (settings.beta1, settings.beta2), sum(p.numel() for p in network.parameters())
        self.adam = torch.optim.Adam(network.parameters(), rate, betas, settings.eps, fused=True)
        self._engine = deepspeed.initialize(
            model=network,
            model_parameters=list(network.parameters()),
            optimizer=self.adam,
            config=deepspeed_config(config, self.stage, world.size, numbers),
            dist_init_required=None,
        )[0]
        if self.stage == 0 and world.size == 1:
            # With one rank, it would only copy gradients twice.
            self._engine.enable_backward_allreduce = False
        self.module: nn.Module = self._engine.module
        self.parameters = list(self.module.named_parameters())
        self._prime()

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer around Adam; Adam itself at stage 0."""
        return self._engine.optimizer

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.parameters[0][1].dtype
        return dtype

    @torch.no_grad()
    def _prime(self) -> None:
        """Create Adam's state before the first step, so that a checkpoint can be loaded into it."""
        if self.stage == 3:  # stage 3 takes the weights out of Adam's groups between steps
            everything = list(self.zero.fp32_partitioned_groups_flat)
        else:
            everything = [weights for group in self.adam.param_groups for weights in group["params"]]
        for weights in everything:
            self.adam.state[weights] = {
                "step": torch.zeros((), dtype=torch.float32, device=weights.device),
                "exp_avg": torch.zeros_like(weights),
                "exp_avg_sq": torch.zeros_like(weights),
            }

    @property
    def updates(self) -> int:
        """Updates done: Adam's own count."""
        return max((int(state["step"]) for state in self.adam.state.values()), default=0)

    @updates.setter
    def updates(self, value: int) -> None:
        for state in self.adam.state.values():
            state["step"].fill_(value)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """The network's output; `backward` computes its gradient."""
        answer: Tensor = self._engine(*inputs)
        return answer

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's mean loss. The last one of an update is reduced over ranks.

        Raises RuntimeError on a second backward pass before `step`.
        """
        if self._awaits_step:
            raise RuntimeError(
                f"{self.name}: two backward passes in one micro-batch; the first would be lost"
            )
        self._awaits_step = True
        self._engine.backward(loss)

    def step(self) -> None:
        """End a micro-batch; after the last one, update the weights.

        Raises HealthError if the gradient is not finite; the weights are then as before.
        """
        self._awaits_step = False
        self._done += 1
        last = self._done == self._micro_batches
        if last:
            self._done = 0
            if self.stage == 0:
                # Stage 0 hands the gradients to Adam unchecked, so they are judged before the step. The other
                # stages check for overflow themselves and skip the update; they are judged after it.
                gradients = [p.grad for _, p in self.parameters if p.grad is not None]
                self._judge(float(torch.nn.utils.get_total_norm(gradients)))
        self._engine.step()
        if last and self.stage > 0:
            overflow = getattr(self.zero, "overflow", False)
            self._judge(math.inf if overflow else float(self._engine.get_global_grad_norm()))

    def _judge(self, norm: float) -> None:
        self.gradient_norm = norm
        if not math.isfinite(norm):
            raise HealthError(f"the {self.name}'s gradient is not finite; its weights were not touched")

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """The bare network without gradients of its own, for a step of the other network."""
        for _, parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield self.module
        finally:
            for _, parameter in self.parameters:
                parameter.requires_grad_(True)

    def close(self) -> None:
        self._engine.destroy()
