"""Rules between keys of a GAN: what DeepSpeed cannot do or would silently do wrong, and useless keys."""

from pretrain.config.gan_losses import LOSSES
from pretrain.config.rule import PROCESSES, Rule, Setup, divisors, multiple_of, unless
from pretrain.config.sections import GanConfig

GanRule = Rule[GanConfig]
GanSetup = Setup[GanConfig]

SIZES = (16, 32, 64, 128, 256)
PENALTIES = ("gradient_penalty", "r1", "r2")


def _penalised(setup: GanSetup) -> list[str]:
    return [f"loss.{name}" for name in PENALTIES if getattr(setup.config.loss, name)]


def _batch_unit(setup: GanSetup) -> int:
    """Images of one micro-batch on every process."""
    return (setup.config.batch.micro_size or 1) * (setup.world_size or 1)


def _share(setup: GanSetup) -> int:
    """Images of one process in a step."""
    return setup.config.batch.global_size // (setup.world_size or 1)


_NETWORKS: tuple[GanRule, ...] = (
    Rule(
        name="image sizes",
        key="model.image_size",
        holds=lambda s: s.config.model.image_size in SIZES,
        message=lambda s: (
            f"must be {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}, got {s.config.model.image_size}"
        ),
        remedies={
            "model.image_size": lambda s: sorted(SIZES, key=lambda z: abs(z - s.config.model.image_size))
        },
    ),
    Rule(
        name="widths fit",
        key="model.max_channels",
        applies=lambda s: s.config.model.architecture != "mlp",
        holds=lambda s: (
            s.config.model.max_channels
            >= max(s.config.model.generator_channels, s.config.model.discriminator_channels)
        ),
        message=(
            "{model.max_channels} is less than generator_channels "
            "{model.generator_channels} or discriminator_channels "
            "{model.discriminator_channels}"
        ),
    ),
    Rule(
        name="an mlp has one width",
        key="model.max_channels",
        applies=lambda s: s.config.model.architecture == "mlp",
        holds=lambda s: "max_channels" not in s.config.model.model_fields_set,
        message="has no effect with architecture mlp; remove it",
    ),
    Rule(
        name="modern networks have no normalisation",
        key="model.architecture",
        applies=lambda s: s.config.model.architecture == "modern",
        holds=lambda s: not (s.config.model.batch_norm or s.config.model.spectral_norm),
        message=(
            "modern is without normalisation; remove model.batch_norm and model.spectral_norm, or choose "
            "dcgan or resnet"
        ),
    ),
    Rule(
        name="batch norm sees the whole batch",
        key="batch.micro_size",
        applies=lambda s: s.config.model.batch_norm and s.config.batch.micro_size is not None,
        holds=lambda s: s.world_size is None or s.config.batch.micro_size == _share(s),
        message=lambda s: (
            "with model.batch_norm a step is one micro-batch, as G's statistics are those of the batch: "
            f"{s.config.batch.micro_size} x {s.world_size} processes is not batch.global_size "
            f"{s.config.batch.global_size}; remove batch.micro_size, or set model.batch_norm: false"
        ),
    ),
    Rule(
        name="batch norm needs a batch",
        key="model.batch_norm",
        applies=lambda s: s.config.model.batch_norm,
        holds=lambda s: s.config.batch.global_size > 1,
        message="one image has no statistics; set batch.global_size to 2 or more",
    ),
)

_BATCH: tuple[GanRule, ...] = (
    multiple_of(
        "micro-batches fill the batch",
        "batch.global_size",
        _batch_unit,
        lambda s: (
            f"{s.config.batch.global_size} is not a multiple of {_batch_unit(s)} = batch.micro_size "
            f"{s.config.batch.micro_size or 1} x {s.world_size} processes"
        ),
        applies=lambda s: s.world_size is not None,
        remedies=divisors(
            PROCESSES, lambda s: s.config.batch.global_size // (s.config.batch.micro_size or 1)
        ),
    ),
)

_STAGES: tuple[GanRule, ...] = (
    Rule(
        name="no double backward at stage 3",
        key="parallel.discriminator_stage",
        applies=lambda s: bool(_penalised(s)),
        holds=lambda s: s.config.parallel.discriminator_stage < 3,
        message=lambda s: (
            f"3 cannot train with {' and '.join(_penalised(s))}: a penalty is differentiated a second time, "
            "through weights that stage 3 has given back by then; use 2 for D (G may stay at 3), or "
            "model.spectral_norm instead of the penalty"
        ),
        remedies={"parallel.discriminator_stage": lambda s: range(2, -1, -1)},
    ),
    Rule(
        name="bf16 needs ZeRO",
        key="precision",
        applies=lambda s: s.config.precision == "bf16",
        holds=lambda s: min(s.config.parallel.generator_stage, s.config.parallel.discriminator_stage) > 0,
        message=(
            "bf16 at stage 0 would keep no fp32 weights and gradients; set parallel.generator_stage and "
            "parallel.discriminator_stage to 1, 2 or 3, which one process can do too"
        ),
    ),
    unless(
        "offload needs ZeRO",
        "parallel.offload_optimizer",
        lambda s: 0 in (s.config.parallel.generator_stage, s.config.parallel.discriminator_stage),
        "has no effect at stage 0; remove it, or set both stages to 1, 2 or 3",
    ),
)

_LOSS: tuple[GanRule, ...] = (
    Rule(
        name="wasserstein needs a Lipschitz bound",
        key="loss.kind",
        applies=lambda s: LOSSES[s.config.loss.kind].needs_bound,
        holds=lambda s: bool(s.config.loss.gradient_penalty) or s.config.model.spectral_norm,
        message=lambda s: (
            f"{s.config.loss.kind} has no bound without loss.gradient_penalty (10 is usual) or "
            "model.spectral_norm"
        ),
    ),
    unless(
        "penalty_every needs a penalty",
        "loss.penalty_every",
        lambda s: not _penalised(s),
        "has no effect without loss.r1, loss.r2 or loss.gradient_penalty; remove it",
    ),
    Rule(
        name="each augmentation once",
        key="loss.augment",
        holds=lambda s: len(set(s.config.loss.augment)) == len(s.config.loss.augment),
        message=lambda s: f"names one twice: {', '.join(s.config.loss.augment)}",
    ),
)

RULES: tuple[GanRule, ...] = (*_NETWORKS, *_BATCH, *_STAGES, *_LOSS)
