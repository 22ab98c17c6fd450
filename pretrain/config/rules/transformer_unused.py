"""Rules of a run on text against options that would have no effect.

A key that changes nothing is most often a misunderstanding, so it is refused instead of being ignored. Legal
on purpose: `every` beyond `run.steps` (`config.unreached` reports it), `recompute: selective` (it also frees
the gathered keys and values under context parallelism), `num_query_groups` equal to the heads, and
`distributed_optimizer` and `overlap_grad_reduce` with one replica (presets fit small clusters too).
"""

from pretrain.config.rule import Rule, only_with, unless
from pretrain.config.rules.transformer import TextRule
from pretrain.config.sections import BertConfig, GptConfig

USELESS: tuple[TextRule, ...] = (
    unless(
        "sequence parallelism needs tensor parallelism",
        "parallel.sequence",
        lambda s: s.config.parallel.tensor == 1,
        "has no effect with parallel.tensor 1; remove it, or set parallel.tensor to 2 or more",
    ),
    unless(
        "one model chunk is no virtual pipeline",
        "parallel.virtual_pipeline",
        lambda s: s.config.parallel.virtual_pipeline == 1,
        "1 has no effect; remove it, or set it to 2 or more",
    ),
    only_with(
        "rotary_base needs rotary positions", "model.rotary_base", "model.position_embedding", "rotary"
    ),
)

INIT_FROM: tuple[Rule[GptConfig | BertConfig], ...] = (
    Rule(
        name="an embedding is learnt anew beside weights that are not",
        key="model.init_embeddings",
        applies=lambda s: s.config.model.init_embeddings == "random",
        holds=lambda s: s.config.model.init_from is not None,
        message="random has no effect without model.init_from: everything is drawn then; remove it",
    ),
)
