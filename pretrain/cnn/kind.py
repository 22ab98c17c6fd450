"""The record of image classifiers: what each command asks of this kind."""

from pretrain.config.rules import DESCENT, cnn, remote, replicated, sources
from pretrain.config.sections import CnnConfig
from pretrain.kind import CACHE_KEYS, Evaluation, Kind, Late, scored_shards

CNN = Kind(
    name="cnn",
    title="a classifier",
    config=CnnConfig,
    rules=(*replicated.rules("images"), *cnn.RULES, *sources.RULES, *remote.RULES, *DESCENT),
    trainer=Late("pretrain.cnn.trainer:CnnTrainer"),
    open_data=Late("pretrain.cnn.check:check_images"),
    summary=Late("pretrain.cnn.check:summary"),
    contents=Late("pretrain.cnn.check:contents"),
    evaluation=Evaluation(
        score=Late("evals.families.cnn:evaluate_classifier"),
        tasks=("accuracy",),
        reads=scored_shards,
        keys=CACHE_KEYS,
        is_extractor=True,
    ),
)
