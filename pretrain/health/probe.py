"""Where in a step the first number that is not finite appears on this rank.

A probe watches one replay of a step: the output of every innermost module, and the gradient that each
micro-batch gives each parameter before it is added up over ranks. It costs a look at every tensor, so it is
used on the failing path alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from pretrain.layout import Layout
from pretrain.model import ForwardStep
from pretrain.models.logical import logical_parts


@dataclass(frozen=True, order=True)
class Sighting:
    """The first bad tensor of a micro-batch on one rank. Of all ranks of a replica the least came first."""

    phase: int
    """0 forward, 1 backward."""
    stage: int
    """Place in the order in which pipeline stages work in that phase."""
    order: int
    """Place among the tensors of that stage."""
    what: str
    micro_batch: int


LOSS_ORDER = 10**9
"""The loss comes after every module of the last stage."""


class Probe:
    """Hooks on this rank's chunks, and the first sighting in each micro-batch."""

    def __init__(self, chunks: Sequence[torch.nn.Module], wrapped: Sequence[Any], layout: Layout) -> None:
        self._chunks = chunks
        self._layout = layout
        self._number = {id(chunk): index for index, chunk in enumerate(wrapped)}
        self._begun: Counter[int] = Counter()
        self._now: tuple[int, int] | None = None
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._first: dict[int, Sighting] = {}

    @property
    def sightings(self) -> list[Sighting]:
        """At most one of each micro-batch."""
        return [self._first[index] for index in sorted(self._first)]

    def watch(self, forward_step: ForwardStep) -> ForwardStep:
        """A forward step that tells the hooks which chunk and micro-batch they see."""

        def watched(batches: Iterator[Any], chunk: Any) -> Any:
            number = self._number[id(chunk)]
            self._now = number, self._begun[number]
            self._begun[number] += 1
            try:
                return forward_step(batches, chunk)
            finally:
                self._now = None  # what recomputation calls again is no forward pass

        return watched

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch modules and parameters until the end of the block."""
        names = {id(part.parameter): part.key for part in logical_parts(self._chunks, self._layout)}
        with ExitStack() as stack:
            for number, chunk in enumerate(self._chunks):
                for module, name in _innermost(chunk).items():
                    stack.callback(module.register_forward_hook(self._after_forward(name)).remove)
                for parameter in chunk.parameters():
                    hook = self._after_backward(names[id(parameter)], number, id(parameter))
                    register: Any = parameter.register_hook
                    stack.callback(register(hook).remove)
            yield

    def _stage(self, chunk: int) -> int:
        """The chunk's place in the whole pipeline."""
        return chunk * self._layout.parallel.pipeline + self._layout.pipeline_rank

    def _after_forward(self, name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if self._now is None:
                return
            chunk, micro_batch = self._now
            self._seen[0, chunk, micro_batch] += 1
            if not all(map(is_finite, _tensors(output))):
                order = self._seen[0, chunk, micro_batch]
                self._note(Sighting(0, self._stage(chunk), order, f"output of {name}", micro_batch))

        return hook

    def _after_backward(self, name: str, chunk: int, parameter: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            # Each micro-batch's backward pass gives a parameter one gradient, in order.
            micro_batch = self._seen[1, parameter]
            self._seen[1, parameter] += 1
            self._seen[2, chunk, micro_batch] += 1
            if not is_finite(gradient):
                order = self._seen[2, chunk, micro_batch]
                self._note(Sighting(1, -self._stage(chunk), order, f"gradient of {name}", micro_batch))

        return hook

    def note_losses(self, losses: Sequence[Tensor]) -> None:
        """Take in what every micro-batch reports of its losses; nothing before the last stage."""
        last = self._stage(len(self._chunks) - 1)
        for micro_batch, loss in enumerate(losses):
            if not is_finite(loss):
                self._note(Sighting(0, last, LOSS_ORDER, "the loss", micro_batch))

    def _note(self, sighting: Sighting) -> None:
        before = self._first.get(sighting.micro_batch, sighting)
        self._first[sighting.micro_batch] = min(before, sighting)


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is; integers always are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensors(output: Any) -> list[Tensor]:
    outputs = output if isinstance(output, tuple | list) else [output]
    return [each for each in outputs if isinstance(each, Tensor)]


def _innermost(chunk: torch.nn.Module) -> Mapping[torch.nn.Module, str]:
    """Modules without children, by a name that has the layer's number in the whole model."""
    layers = {
        f"{name}.": f"{name.rsplit('.', 1)[0]}.{module.layer_number - 1}."
        for name, module in chunk.named_modules()
        if isinstance(module, TransformerLayer)
    }
    found = {}
    for name, module in chunk.named_modules():
        if not any(True for _ in module.children()):
            prefix = next((prefix for prefix in layers if name.startswith(prefix)), "")
            found[module] = layers.get(prefix, "") + name[len(prefix) :]
    return found
