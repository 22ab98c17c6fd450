"""The record of GANs: what each command asks of this kind."""

from pretrain.config.rules import gan, remote, service, sources
from pretrain.config.sections import GanConfig
from pretrain.kind import CACHE_KEYS, Evaluation, Export, Generation, Kind, Late, Planning, scored_shards

GAN = Kind(
    name="gan",
    title="a GAN",
    config=GanConfig,
    rules=(*gan.RULES, *sources.TRAINING, *remote.RULES, *service.RULES),
    trainer=Late("pretrain.gan.trainer:GanTrainer"),
    open_data=Late("pretrain.gan.check:check_images"),
    summary=Late("pretrain.gan.check:summary"),
    contents=Late("pretrain.gan.check:contents"),
    planning=Planning(Late("pretrain.plan.gan_table:show_gan_plan")),
    evaluation=Evaluation(
        score=Late("evals.families.gan:evaluate_gan"),
        tasks=("images",),
        reads=scored_shards,
        keys=("data.train", *CACHE_KEYS),
        options=frozenset(
            {"extractor", "inception_weights", "inception_sha256", "resize", "samples", "seed"}
        ),
        scores_training=True,
    ),
    generation=Generation(
        Late("pretrain.gan.generate:generate_command"), frozenset({"output", "count", "label", "raw", "seed"})
    ),
    export=Export(Late("pretrain.gan.export:export_generator")),
)
