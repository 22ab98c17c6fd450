"""The layouts that are known, and which of them a config has."""

from pretrain.config.sections import TextConfig
from pretrain.errors import UserError
from pretrain.hf.architecture import Architecture
from pretrain.hf.decoders import DECODERS
from pretrain.hf.encoders import ENCODERS, finetuned

ARCHITECTURES: tuple[Architecture, ...] = (*DECODERS, *ENCODERS)


def architecture_of(config: TextConfig, labels: tuple[str, ...] = ()) -> Architecture:
    """The layout for a config.

    Args:
        config: of a model.
        labels: the classes of a fine-tuned BERT.

    Raises:
        UserError: there is none; names the keys that rule out the nearest one.
    """
    known = (*ARCHITECTURES, *(finetuned(each, labels) for each in ENCODERS))
    candidates = [each for each in known if isinstance(config, each.holds)]
    if not candidates:
        kinds = " and ".join(sorted({each.kind for each in ARCHITECTURES}))
        raise UserError(f"pretrain export writes model.kind {kinds}; this is {config.model.kind}")
    best = min(candidates, key=lambda each: len(each.obstacles(config)))
    if obstacles := best.obstacles(config):
        raise UserError(
            f"no model of transformers that is known here is like this one; {best.class_of(config)} is "
            f"nearest, and has no place for {', '.join(obstacles)}"
        )
    return best
