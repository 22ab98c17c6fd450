"""Narrows a config to the kinds that a command supports."""

from typing import TypeVar

from pretrain.config.sections import Config
from pretrain.errors import UserError
from pretrain.kinds import configs

C = TypeVar("C", bound=Config)


def require_kind(config: Config, wanted: type[C] | tuple[type[C], ...], what: str) -> C:
    """The config as a `wanted` one, or as one of several.

    Raises UserError, saying that `what` is not for its `model.kind`.
    """
    if isinstance(config, wanted):
        return config
    kinds = " or ".join(kind for kind, known in configs().items() if issubclass(known, wanted))
    raise UserError(f"{what} is for model.kind {kinds}; this config has {config.model.kind}")
