"""The layouts that are known, and which of them a config has."""

from pretrain.config.sections import TextConfig
from pretrain.errors import UserError
from pretrain.hf.architecture import Architecture
from pretrain.hf.bert import HfBert, HfMegatronBert
from pretrain.hf.finetuned_bert import HfFinetunedBert, HfFinetunedMegatronBert
from pretrain.hf.gpt2 import HfGpt2
from pretrain.hf.llama import HfLlama

ARCHITECTURES: tuple[Architecture, ...] = (HfGpt2(), HfLlama(), HfMegatronBert(), HfBert())


def architecture_of(config: TextConfig, labels: tuple[str, ...] = ()) -> Architecture:
    """The layout for a config.

    Args:
        config: of a model.
        labels: the classes of a fine-tuned BERT.

    Raises:
        UserError: there is none; names the keys that rule out the nearest one.
    """
    known = (*ARCHITECTURES, HfFinetunedBert(labels), HfFinetunedMegatronBert(labels))
    candidates = [each for each in known if isinstance(config, each.holds)]
    if not candidates:
        kinds = " and ".join(sorted({each.kind for each in ARCHITECTURES}))
        raise UserError(f"pretrain export writes model.kind {kinds}; this is {config.model.kind}")
    obstacles = {each: each.obstacles(config) for each in candidates}
    best = min(candidates, key=lambda each: len(obstacles[each]))
    if obstacles[best]:
        raise UserError(
            f"no model of transformers that is known here is like this one; {best.class_of(config)} is "
            f"nearest, and has no place for {', '.join(obstacles[best])}"
        )
    return best
