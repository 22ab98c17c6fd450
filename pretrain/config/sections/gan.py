"""A run that trains a GAN on DeepSpeed."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pretrain.config.gan_losses import LOSSES, published
from pretrain.config.sections.common import Config, EvalConfig, HealthConfig, ModelConfig
from pretrain.config.sections.resume import LAYOUT, OPTIMIZER, must_agree
from pretrain.config.sections.section import Count, GlobalSize, MicroSize, Section, Width
from pretrain.config.sections.source import ImageDataConfig

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]

Stage = Literal[0, 1, 2, 3]
Augmentation = Literal["color", "translation", "cutout"]


def _as_tuple(value: Any) -> Any:
    """A list of YAML as a tuple; one word as a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Augmentations = Annotated[tuple[Augmentation, ...], BeforeValidator(_as_tuple)]


class GanModelConfig(ModelConfig):
    """A generator and a discriminator (Goodfellow et al. 2014, "Generative Adversarial Nets")."""

    kind: Literal["gan"]
    """Model family."""
    architecture: Literal["mlp", "dcgan", "resnet", "modern"] = "dcgan"
    """mlp: fully connected (Goodfellow et al. 2014). dcgan: transposed convolutions (Radford et al. 2016).
    resnet: the residual networks of SNGAN (Miyato et al. 2018). modern: residual without normalisation, as
    R3GAN (Huang et al. 2024)."""
    image_size: Count
    """Side of the square images: 16, 32, 64, 128 or 256, as the shards of `data.train` have it."""
    latent_size: Width = 128
    """Numbers of noise that make one image."""
    generator_channels: Width = 32
    """Channels of the generator at full resolution; each halving doubles them, up to `max_channels`. mlp:
    width of its hidden layers / 16."""
    discriminator_channels: Width = 32
    """The same for the discriminator."""
    max_channels: Width = 512
    """No layer is wider."""
    conditional: bool = False
    """Classes: an embedding beside the noise in G, a projection head in D (Miyato & Koyama 2018). Needs
    labelled images."""
    batch_norm: bool = False
    """Batch normalisation in G over the whole global batch; not with modern. A step is then one
    micro-batch."""
    spectral_norm: bool = False
    """Spectral normalisation of D (Miyato et al. 2018), one power iteration a step of D."""
    init_std: float | None = Field(None, gt=0)
    """Standard deviation of the initial weights; null: sqrt(2 / fan-in) (He et al. 2015)."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of G's weights that samples are drawn from; smaller in the first steps; 0:
    the average is G itself."""


class GanBatchConfig(Section):
    """How many images a step sees. Gradient accumulation follows from these and the number of processes."""

    global_size: GlobalSize
    """Images per update over all processes; a multiple of micro_size x processes."""
    micro_size: MicroSize | None = None
    """Images per forward pass of one process; null: all of its share at once."""


class GanParallelConfig(Section):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020), chosen for each network."""

    RESUME = LAYOUT

    generator_stage: Stage = 0
    """What of G is sharded over the processes: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights
    too."""
    discriminator_stage: Stage = 0
    """The same for D. Penalties on D's gradient (r1, r2, gradient_penalty) need a stage below 3."""
    offload_optimizer: bool = False
    """Optimizer states live in the host's memory; for stages 1 to 3."""


class GanOptimizerConfig(Section):
    """Adam (Kingma & Ba 2015), one for each network, at a constant rate."""

    RESUME = OPTIMIZER

    lr: float = Field(gt=0)
    """Learning rate of G, and of D where it has none of its own."""
    discriminator_lr: float | None = Field(None, gt=0)
    """Learning rate of D; null: `lr`."""
    beta1: float = Field(0.0, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    clip_grad: float = Field(0.0, ge=0)
    """Gradient norm of each network to clip to; 0: no clipping."""


class GanLossConfig(Section):
    """The game and what keeps it stable."""

    RESUME = must_agree("decides what both networks are trained to do")

    kind: LossName = Field("non_saturating", description=published())
    discriminator_steps: int = Field(1, ge=1, le=100)
    """Updates of D, each on images of its own, before one of G."""
    gradient_penalty: float = Field(0.0, ge=0)
    """Weight of (|dD/dx| - 1)^2 between real and generated images (Gulrajani et al. 2017)."""
    r1: float = Field(0.0, ge=0)
    """gamma of R1, gamma/2 |dD/dx|^2 at real images (Mescheder et al. 2018)."""
    r2: float = Field(0.0, ge=0)
    """The same at generated images."""
    penalty_every: int | None = Field(None, ge=1, le=1000)
    """Updates of D between penalties, each then weighted by this number (lazy regularisation, Karras et al.
    2020); null: 1."""
    augment: Augmentations = ()
    """DiffAugment (Zhao et al. 2020) of all that D sees."""


class GanEvalConfig(EvalConfig):
    """Samples during training."""

    every: Count | None = None
    """Steps between grids of images from fixed noise; null: only at the end."""
    samples: int = Field(64, ge=4, le=1024)
    """Images in a grid."""


class GanHealthConfig(HealthConfig):
    """What to do about games that ended and replicas that drift apart. A loss or gradient that is not finite
    always stops a GAN's run. A run that is stopped ends with exit code 4."""

    on_collapse: Literal["ignore", "report", "stop"] = "report"
    """D wins for so long that G learns nothing, or samples are nearly alike: say so in log and journal, or
    stop."""


class GanConfig(Config):
    """A run that trains a GAN."""

    model: GanModelConfig
    batch: GanBatchConfig
    parallel: GanParallelConfig = GanParallelConfig()
    optimizer: GanOptimizerConfig
    loss: GanLossConfig = GanLossConfig()
    data: ImageDataConfig
    eval: GanEvalConfig = GanEvalConfig()
    health: GanHealthConfig = GanHealthConfig()
