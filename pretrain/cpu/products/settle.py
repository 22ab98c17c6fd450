"""One choice of methods for all ranks, and for all jobs of a run.

Rank 0 decides once the rendezvous is complete: by the environment, else by its machine's trial, among what
every rank supports. A run keeps the choice that it began with, which is in its status.
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
"""Key of the choice in a run's status."""
BEFORE = "onednn"
"""The choice of every run on a CPU before there was one."""
_PAIRS = tuple((kind, name) for kind in TYPES for name in METHODS)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """The choice of all ranks."""

    choice: Choice
    asked: bool
    """Given by the environment; else measured, or kept from the beginning of the run."""
    available: Available
    """What every rank has."""

    def put_in_force(self) -> "Settled":
        """Use the choice in this process, and in those that it starts."""
        os.environ[VARIABLE] = self.choice.text
        return self


def decide(available: Available) -> Settled:
    """By the environment, else by this machine's trial.

    Raises:
        UserError: the environment asks for something invalid or unavailable.
    """
    asked = os.environ.get(VARIABLE, AUTO)
    if asked != AUTO:
        return Settled(parse(asked, available), True, available)
    return Settled(known_trial().choice(available), False, available)


@contextmanager
def settled(rank: int, size: int) -> Iterator[Settled]:
    """Decide for all ranks, which call this together, on the CPU; in force until the context ends.

    Raises:
        UserError: on all ranks, if the environment asks for something invalid or unavailable.
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
    """The choice of rank 0, among what every rank supports."""
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
    """The choice for a resume: as the run began, unless the environment says otherwise or a rank does not
    support it.

    Args:
        settled: by the ranks of this job.
        folder: of the run.
        together: as `training.session.Together`.
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
    from pretrain.run.status import read_status  # imported here, since only a run needs it

    status = read_status(folder)
    if status is None:
        return ""
    # A run on a CPU without this fact is older than the choice.
    return status.facts.get(FACT, BEFORE if status.facts.get("device") == "cpu" else "")
