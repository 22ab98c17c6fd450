"""Where in a step the first number that is not finite appears on this rank.

A probe watches one replay of a step: the output of every innermost module, and the gradient of each parameter
from each micro-batch before it is summed over ranks. It inspects every tensor, so it is used only once a step
has failed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter


@dataclass(frozen=True, order=True)
class Sighting:
    """The first bad tensor of a micro-batch on one rank. Among all ranks of a replica, the smallest came
    first."""

    phase: int
    """0 forward, 1 backward."""
    stage: int
    """Position in the order in which stages run in that phase."""
    order: int
    """Position among the tensors of that stage."""
    what: str
    micro_batch: int


@dataclass(frozen=True)
class Watched:
    """A network, or a part of one, and the names of its tensors."""

    modules: Mapping[Module, str]
    """Modules whose outputs are checked, with their names."""
    parameters: Mapping[Parameter, str]
    """Parameters whose gradients are checked, with their names."""
    stage: int = 0
    """Position in the order in which the watched networks run in the forward pass."""


LOSS_ORDER = 10**9
"""Order of the loss, which comes after every module of the last stage."""


class Probe:
    """Hooks on this rank's networks, and the first sighting in each micro-batch."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self._watched = watched
        self._now: int | None = None
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._first: dict[int, Sighting] = {}

    @property
    def sightings(self) -> list[Sighting]:
        """At most one per micro-batch, in order."""
        return [self._first[index] for index in sorted(self._first)]

    @contextmanager
    def forward(self, micro_batch: int) -> Iterator[None]:
        """Attribute modules that run in the block to this micro-batch; those that recomputation calls again
        in a backward pass are ignored."""
        self._now = micro_batch
        try:
            yield
        finally:
            self._now = None

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch modules and parameters until the end of the block."""
        with ExitStack() as stack:
            for watched in self._watched:
                for module, name in watched.modules.items():
                    hook = self._after_forward(f"output of {name}", watched.stage)
                    stack.callback(module.register_forward_hook(hook).remove)
                for parameter, name in watched.parameters.items():
                    register: Any = parameter.register_hook
                    stack.callback(register(self._after_backward(name, watched.stage, id(parameter))).remove)
            yield

    def _after_forward(self, what: str, stage: int) -> Callable[..., None]:
        def hook(_module: Module, _inputs: Any, output: Any) -> None:
            if self._now is None:
                return
            self._seen[0, stage, self._now] += 1
            if not all(map(is_finite, _tensors(output))):
                self._note(Sighting(0, stage, self._seen[0, stage, self._now], what, self._now))

        return hook

    def _after_backward(self, name: str, stage: int, parameter: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            # Each micro-batch's backward pass gives a parameter one gradient, in order of micro-batches.
            micro_batch = self._seen[1, parameter]
            self._seen[1, parameter] += 1
            self._seen[2, stage, micro_batch] += 1
            if not is_finite(gradient):
                order = self._seen[2, stage, micro_batch]
                self._note(Sighting(1, -stage, order, f"gradient of {name}", micro_batch))

        return hook

    def note_input(self, what: str, tensor: Tensor, micro_batch: int) -> None:
        """Check the input of the first stage for a micro-batch."""
        if not is_finite(tensor):
            self._note(Sighting(0, 0, 0, what, micro_batch))

    def note_loss(self, loss: Tensor, micro_batch: int, what: str = "the loss") -> None:
        """Check a loss of a micro-batch; losses come from the last stage."""
        if not is_finite(loss):
            last = max(watched.stage for watched in self._watched)
            self._note(Sighting(0, last, LOSS_ORDER, what, micro_batch))

    def _note(self, sighting: Sighting) -> None:
        before = self._first.get(sighting.micro_batch, sighting)
        self._first[sighting.micro_batch] = min(before, sighting)


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is finite; integers always are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensors(output: Any) -> list[Tensor]:
    outputs = output if isinstance(output, tuple | list) else [output]
    return [each for each in outputs if isinstance(each, Tensor)]


def watch(network: Module, name: str = "", stage: int = 0) -> Watched:
    """Everything of a network that is on this rank, under the modules' own names.

    Args:
        network: whose innermost modules and own output are watched.
        name: of the network, if there are several.
        stage: as in `Watched`.
    """
    prefix = f"{name}." if name else ""
    modules = {module: prefix + inner for inner, module in innermost(network)}
    parameters = {each: prefix + inner for inner, each in network.named_parameters() if each.requires_grad}
    return Watched(modules | {network: name or "the model"}, parameters, stage)


def innermost(network: Module) -> Iterator[tuple[str, Module]]:
    """Modules without children, with their names."""
    for name, module in network.named_modules():
        if not any(True for _ in module.children()):
            yield name, module
