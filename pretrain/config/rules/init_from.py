"""Rules between keys of a run that may take its weights from another run."""

from pretrain.config.rule import Rule
from pretrain.config.sections import BertConfig, GptConfig

RULES: tuple[Rule[GptConfig | BertConfig], ...] = (
    Rule(
        name="an embedding is learnt anew beside weights that are not",
        key="model.init_embeddings",
        applies=lambda s: s.config.model.init_embeddings == "random",
        holds=lambda s: s.config.model.init_from is not None,
        message="random has no effect without model.init_from: everything is drawn then; remove it",
    ),
)
