"""Rules of a run on text against options that would have no effect.

A key that changes nothing is most often a misunderstanding, so it is refused instead of being passed over.
What is legal on purpose: `every` beyond `run.steps` (short trials), `recompute: selective` (it also frees the
gathered keys and values under context parallelism), `num_query_groups` equal to the heads.
"""

from pretrain.config.rule import unless
from pretrain.config.rules.text import TextRule, TextSetup


def _one_gradient_owner(setup: TextSetup) -> bool:
    """Gradients and optimizer states are shared over data and context parallel ranks; is there one only?"""
    return setup.data_parallel == 1 and setup.config.parallel.context == 1


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
    unless(
        "a distributed optimizer needs several replicas",
        "parallel.distributed_optimizer",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    unless(
        "overlapped reduction needs several replicas",
        "parallel.overlap_grad_reduce",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    unless(
        "rotary_base needs rotary positions",
        "model.rotary_base",
        lambda s: s.config.model.position_embedding != "rotary",
        "has no effect with position_embedding learned; remove it, or set position_embedding: rotary",
    ),
)
