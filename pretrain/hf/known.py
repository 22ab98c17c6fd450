"""The layouts that are known, and which of them a config is of."""

from pretrain.config.sections import ChatConfig, TextConfig
from pretrain.errors import UserError
from pretrain.hf.architecture import Architecture
from pretrain.hf.bert import Bert, MegatronBert
from pretrain.hf.gpt2 import Gpt2
from pretrain.hf.llama import Llama

ARCHITECTURES: tuple[Architecture, ...] = (Gpt2(), Llama(), MegatronBert(), Bert())


def architecture_of(config: TextConfig) -> Architecture:
    """The layout for a config.

    Raises:
        UserError: there is none; names the keys in the way of the nearest.
    """
    kind = "gpt" if isinstance(config, ChatConfig) else config.model.kind
    obstacles = {known: known.obstacles(config) for known in ARCHITECTURES if known.kind == kind}
    if not obstacles:
        kinds = " and ".join(sorted({known.kind for known in ARCHITECTURES}))
        raise UserError(f"pretrain export writes model.kind {kinds}; this is {config.model.kind}")
    best = min(obstacles, key=lambda known: len(obstacles[known]))
    if obstacles[best]:
        raise UserError(
            f"no model of transformers that is known here is like this one; {best.class_of(config)} is "
            f"nearest, and has no place for {', '.join(obstacles[best])}"
        )
    return best
