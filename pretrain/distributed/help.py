"""Rank 0 decides, and every rank helps it with what takes long."""

from collections.abc import Callable
from typing import TypeVar

from pretrain.distributed.collectives import broadcast_from_rank0, broadcast_text
from pretrain.distributed.gather import gather_texts
from pretrain.distributed.world import DistContext

T = TypeVar("T")
Helpers = Callable[[str], list[str]]
"""Has every rank work on a text; returns what each of them answered, in rank order."""


def decide_with_help(world: DistContext, decide: Callable[[Helpers], T], work: Callable[[str], str]) -> T:
    """As `broadcast_from_rank0`; all ranks call this together.

    Args:
        decide: called on rank 0; may ask the helpers any number of times.
        work: what a rank does when it is asked; must not raise.
    """

    def ask(text: str) -> list[str]:
        return gather_texts(world, work(broadcast_text(world, text)))

    if not world.is_first:
        while text := broadcast_text(world, ""):
            gather_texts(world, work(text))
        return broadcast_from_rank0(world, lambda: decide(ask))  # which only rank 0 calls

    def decided() -> T:
        try:
            return decide(ask)
        finally:
            broadcast_text(world, "")  # the others leave their loop

    return broadcast_from_rank0(world, decided)
