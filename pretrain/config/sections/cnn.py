"""A run that trains a convolutional classifier of images."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.common import ModelConfig
from pretrain.config.sections.descent import DescentConfig
from pretrain.config.sections.resume import SCORED_SHARDS, must_agree
from pretrain.config.sections.section import GlobalSize, MicroSize, Section, Width
from pretrain.config.sections.source import ImageDataConfig, Sources


class CnnModelConfig(ModelConfig):
    """A plain convolutional classifier: its last but one layer gives the features that images are compared
    by."""

    kind: Literal["cnn"]
    """Model family."""
    width: Width = 32
    """Channels of the first convolution and of the first stage; each later stage has twice as many."""
    stages: int = Field(2, ge=1, le=10)
    """Convolutions that halve the sides of the image; 2 to the power of `stages` divides the image size."""
    features: Width = 64
    """Numbers that describe an image, the input of the classifying layer."""


class CnnBatchConfig(Section):
    """How many images a step sees. Gradient accumulation follows from these and the world size."""

    global_size: GlobalSize
    """Images per optimizer step over all ranks; a multiple of micro_size x processes."""
    micro_size: MicroSize = 1
    """Images per forward pass of one rank."""


class CnnDataConfig(ImageDataConfig):
    """Where labelled images come from. A path may stand for a list of one source of weight 1."""

    validation: Annotated[Sources | None, SCORED_SHARDS] = None
    """Shard directories to validate on, built with `--classes` of the training shards. Weights mean nothing
    here and are refused: every image is scored once."""
    shift: Annotated[int, must_agree("changes what training images look like")] = Field(0, ge=0, le=64)
    """Training images are moved by up to this many pixels in each direction, drawn anew every time; what
    comes in at the edges is black."""


class CnnConfig(DescentConfig):
    """A run that trains a convolutional classifier."""

    model: CnnModelConfig
    batch: CnnBatchConfig
    data: CnnDataConfig
