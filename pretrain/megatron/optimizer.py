"""The optimizer of a model-parallel model, and its state as logical tensors.

megatron-core reduces gradients and shards states. Its own way of saving states is not used: with torch's
AdamW it gives all parameters one shared `step` tensor on load, and it gathers a sharded state on one rank.
Here every rank names the shards that it holds, and states are set in place.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import get_standard_config_overrides as standard_weight_decay
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.config.optimizers import ADAMW, OPTIMIZERS
from pretrain.config.sections import OptimizerConfig as Settings
from pretrain.config.sections import TextConfig
from pretrain.megatron.layers.transformer import parameter_dtype
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.sharding import ParameterShard, parameter_shards

FUSED_ADAM = "FusedAdam"
"""The class name that Transformer Engine and Apex both use."""


@dataclass(frozen=True)
class _Holding:
    """The range of a parameter's elements whose optimizer state this rank holds."""

    start: int
    stop: int
    main: Tensor
    """fp32 weights of the range; the parameter itself in fp32 without sharding."""


class Optimizer:
    """megatron-core's optimizer, with norm and update apart, so that a verdict can stand between them."""

    def __init__(self, config: TextConfig, model: PipelineModel) -> None:
        settings = config.optimizer
        dtype = parameter_dtype(config)
        self._model = model
        self._weight_decay = settings.weight_decay
        self._clip = settings.clip_grad
        megatron = OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.eps,
            clip_grad=settings.clip_grad,
            bf16=config.precision == "bf16",
            params_dtype=dtype,
            use_distributed_optimizer=config.parallel.distributed_optimizer,
        )
        whole: Any = get_megatron_optimizer(
            megatron,
            model.wrapped,
            config_overrides=standard_weight_decay(megatron),
            use_gloo_process_groups=False,
        )
        # A chain of one optimizer: megatron-core adds a second one only for experts.
        (self._megatron,) = getattr(whole, "chained_optimizers", [whole])
        self._inner: torch.optim.Optimizer = self._megatron.optimizer
        self._state, self._updates = OPTIMIZERS[settings.kind].state, 0
        if settings.kind != ADAMW:
            self._inner = self._megatron.optimizer = _made_for(self._inner.param_groups, settings)
        elif not (self._is_torch_adam or self._is_fused_adam):
            raise RuntimeError(f"megatron-core made a {self.name}; how it counts its steps is not known")
        self._megatron.zero_grad()
        self._prime()

    @property
    def name(self) -> str:
        """The class that steps: torch's AdamW, or the FusedAdam of a library that megatron-core prefers."""
        return class_name(type(self._inner))

    def _prime(self) -> None:
        """Create every state before the first step, so that a checkpoint can be loaded into it.

        torch counts steps in each parameter's state, Transformer Engine and Apex in each group. The latter
        two begin at 1 if they find no count.
        """
        for group in self._inner.param_groups:
            if self._is_torch_adam:
                group["fused"] = True
            if self._is_fused_adam:
                group["step"] = 0
            for main in group["params"]:
                state = self._inner.state[main]
                state.update({name: torch.zeros_like(main) for name in self._state})
                if not self._is_fused_adam:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=main.device)

    @property
    def _is_torch_adam(self) -> bool:
        return isinstance(self._inner, torch.optim.Adam)

    @property
    def _is_fused_adam(self) -> bool:
        return type(self._inner).__name__ == FUSED_ADAM

    @property
    def updates(self) -> int:
        """Updates done."""
        return self._updates

    @updates.setter
    def updates(self, value: int) -> None:
        self._updates = value
        if self._is_fused_adam:
            for group in self._inner.param_groups:
                group["step"] = value
            return
        for state in self._inner.state.values():
            state["step"].fill_(value)

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Prepare the reduced gradients and return their global 2-norm; NaN or infinite if any of them is.

        megatron-core's own reads the norm of every gradient from the GPU, one by one.

        Returns:
            [] float64 on the device: the host need not wait for it.
        """
        self._megatron.prepare_grads()
        gradients = self._megatron.get_main_grads_for_grad_norm()
        if gradients:
            square = torch.stack(torch._foreach_norm(gradients)).norm().square()
        else:
            square = torch.zeros((), device=self._model.layout.device)
        dist.all_reduce(square, group=self._megatron.get_grad_stats_parallel_group())
        norm: Tensor = square.double().sqrt()
        return norm

    @torch.no_grad()
    def update(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip and take one step.

        Args:
            learning_rate: of this step.
            gradient_norm: the value of what `gradient_norm()` returned; must be finite.
        """
        if not math.isfinite(gradient_norm):
            raise ValueError(f"refusing to step with a gradient norm of {gradient_norm}")
        for group in self._inner.param_groups:
            group["lr"] = learning_rate * group.get("lr_mult", 1.0)
            group["weight_decay"] = self._weight_decay * group.get("wd_mult", 1.0)
        clipped = 0 < self._clip < gradient_norm
        self._scale_gradients(self._clip / (gradient_norm + 1e-6) if clipped else 1.0)
        self._megatron.step_with_ready_grads()
        self._updates += 1

    def _scale_gradients(self, factor: float) -> None:
        if self._is_torch_adam:
            # The fused update divides by this on the way, which saves a pass over all gradients.
            adam: Any = self._inner
            adam.grad_scale = None
            if factor != 1:
                adam.grad_scale = torch.full((), 1 / factor, device=self._model.layout.device)
        elif factor != 1:
            gradients = [p.grad for p in self._megatron.get_parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, factor)

    def tensors(self) -> list[Tensor]:
        """Everything that this rank's optimizer steps on and remembers; in fp32 that includes the weights."""
        found: list[Tensor] = []
        for group in self._inner.param_groups:
            for main in group["params"]:
                states = self._inner.state[main].values()
                found += [main, *(state for state in states if isinstance(state, Tensor))]
        return found

    def pieces(self) -> Iterator[ShardedTensor]:
        """This rank's shards of the weights and of the optimizer state, for saving and loading."""
        layout, chunks = self._model.layout, self._model.chunks
        mixed = self._model.config.precision == "bf16"
        sharded = isinstance(self._megatron, DistributedOptimizer)
        for part in parameter_shards(chunks, layout):
            yield weight_shard(part, layout)
            holding = self._holding(part.parameter)
            if holding is None:
                continue
            first = max(holding.start, part.start)
            last = min(holding.stop, part.start + part.size)
            if first >= last:
                continue
            flat = (first - part.start, last - part.start) if sharded else None
            owner = part.primary if sharded else _is_owner(part, layout)
            states = {name: self._inner.state[holding.main][name] for name in self._state}
            if mixed:
                states["master"] = holding.main
            for name, state in states.items():
                run = state.detach().view(-1)[first - holding.start : last - holding.start]
                yield ShardedTensor(
                    key=f"optimizer.{name}.{part.key}",
                    global_shape=part.global_shape,
                    offset=part.offset,
                    shape=part.shape,
                    flat=flat,
                    tensor=run if sharded else run.view(part.shape),
                    group="optimizer",
                    owner=owner,
                )

    def _holding(self, parameter: torch.nn.Parameter) -> _Holding | None:
        """What this rank holds of a parameter's state; None if other ranks hold all of it."""
        if not isinstance(self._megatron, DistributedOptimizer):
            main = getattr(parameter, "main_param", parameter)
            return _Holding(0, parameter.numel(), main)
        if parameter not in self._megatron.model_param_group_index_map:
            return None
        run = self._megatron._get_model_param_range_map(parameter)["param"]
        group, order = self._megatron.model_param_group_index_map[parameter]
        return _Holding(run.start, run.end, self._inner.param_groups[group]["params"][order])


def _made_for(groups: Sequence[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of a config over megatron-core's groups, whose tensors may be parts of parameters."""
    # torch refuses such parts where an optimizer is made, and takes them afterwards, as megatron-core does.
    made = OPTIMIZERS[settings.kind].make(
        [{**group, "params": [torch.zeros(1)]} for group in groups], settings
    )
    for group, given in zip(made.param_groups, groups, strict=True):
        group["params"] = given["params"]
    return made


def class_name(cls: type) -> str:
    """The name that a class is imported by, such as `torch.optim.adamw.AdamW`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def weight_shard(part: ParameterShard, layout: ParallelDims) -> ShardedTensor:
    return ShardedTensor(
        key=part.key,
        global_shape=part.global_shape,
        offset=part.offset,
        shape=part.shape,
        flat=None,
        tensor=part.view(part.parameter.detach().view(-1)),
        group="weights",
        owner=_is_owner(part, layout),
    )


def _is_owner(part: ParameterShard, layout: ParallelDims) -> bool:
    """Whether this rank saves a part. Replicas take turns, by name, to share the work of saving."""
    replicas = layout.data_size * layout.parallel.context
    mine = layout.data_rank * layout.parallel.context + layout.context_rank
    # crc32 and not hash(): Python's hash of a string differs between processes.
    return part.primary and zlib.crc32(part.key.encode()) % replicas == mine
