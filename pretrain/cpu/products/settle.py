"""One choice of methods for all ranks, and for all jobs of a run.

Rank 0 decides when the ranks have met: by the environment, else by its machine's trial, among what every
rank has. A run goes on with what it began with, which its status says.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from pretrain.cpu.products.choice import (
    AUTO,
    CLASSES,
    TYPES,
    VARIABLE,
    Available,
    Choice,
    available_here,
    parse,
)
from pretrain.cpu.products.method import METHODS
from pretrain.cpu.products.trial import known_trial
from pretrain.errors import UserError

if TYPE_CHECKING:
    from pretrain.run.folder import RunFolder

FACT = "cpu_products"
"""Of a run's status."""
BEFORE = "onednn"
"""What every run on a CPU took before there was a choice."""
_PAIRS = tuple((kind, name) for kind in TYPES for name in METHODS)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What all ranks compute with."""

    choice: Choice
    asked: bool
    """By the environment; else measured, or as the run began."""
    available: Available
    """What every rank has."""

    def put_in_force(self) -> "Settled":
        """For this process, and for those that it starts."""
        os.environ[VARIABLE] = self.choice.text
        return self


def decide(available: Available) -> Settled:
    """By the environment, else by this machine's trial.

    Raises:
        UserError: the environment says what cannot be.
    """
    asked = os.environ.get(VARIABLE, AUTO)
    if asked != AUTO:
        return Settled(parse(asked, available), True, available)
    return Settled(known_trial().choice(available), False, available)


@contextmanager
def settled(rank: int, size: int) -> Iterator[Settled]:
    """Decide for all ranks, which call this together, on the CPU; in force until they part.

    Raises:
        UserError: on all ranks, the environment says what cannot be.
    """
    before = os.environ.get(VARIABLE)
    try:
        own = available_here()
        yield (decide(own) if size == 1 else _decide_together(rank, own)).put_in_force()
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _decide_together(rank: int, own: Available) -> Settled:
    """The choice of rank 0, among what every rank has."""
    having = torch.tensor([pair in own for pair in _PAIRS], dtype=torch.int64)
    dist.all_reduce(having, dist.ReduceOp.MIN)
    common = tuple(pair for pair, had in zip(_PAIRS, having.tolist(), strict=True) if had)
    names, refused = list(METHODS), None
    codes = torch.full((1 + len(CLASSES),), -1, dtype=torch.int64)
    if rank == 0:
        try:
            decided = decide(common)
            codes[0] = decided.asked
            codes[1:] = torch.tensor([names.index(name) for name in decided.choice.methods])
        except UserError as error:
            refused = error
    dist.broadcast(codes, 0)
    asked, *chosen = codes.tolist()
    if asked < 0:
        raise refused or UserError(f"rank 0 refuses its {VARIABLE}")
    return Settled(Choice(tuple(names[code] for code in chosen)), bool(asked), common)


def as_begun(settled: Settled, folder: "RunFolder", together: Callable[[Callable[[], str]], str]) -> Settled:
    """What a run goes on with: as it began, unless the environment says otherwise or a rank cannot.

    Args:
        settled: by the ranks of this job.
        folder: of the run.
        together: as `run.Together`.
    """
    text = together(lambda: _recorded(folder))
    now = settled.choice.text
    if not text:
        log.info(
            "products on the CPU: %s (%s)", now, f"as {VARIABLE} says" if settled.asked else "as measured"
        )
        return settled
    try:
        begun = parse(text, settled.available)
    except UserError:
        begun = None
    if begun == settled.choice:
        log.info("products on the CPU: %s (as the run began)", now)
        return settled
    if begun is None or settled.asked:
        why = "" if settled.asked else ", which not every rank has here"
        log.warning(
            "products on the CPU: %s, but the run began with %s%s; from here on numbers differ from those of "
            "an uninterrupted run in their last digits",
            *(now, text, why),
        )
        return settled
    log.info("products on the CPU: %s, as the run began; measured here: %s", begun.text, now)
    return replace(settled, choice=begun).put_in_force()


def _recorded(folder: "RunFolder") -> str:
    from pretrain.run.status import read_status  # which nothing needs that only joins a world

    status = read_status(folder)
    if status is None:
        return ""
    # Runs on a CPU that do not say it are older than the choice.
    return status.facts.get(FACT, BEFORE if status.facts.get("device") == "cpu" else "")
