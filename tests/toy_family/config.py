"""A run that fits a polynomial."""

from typing import Literal

from pydantic import Field

from pretrain.config.rule import Rule
from pretrain.config.rules import DESCENT
from pretrain.config.rules import replicated as replicas
from pretrain.config.sections import DescentConfig, ModelConfig, Section
from pretrain.config.sections.section import Count, MicroSize, PathText


class PolynomialModelConfig(ModelConfig):
    """A polynomial."""

    kind: Literal["polynomial"]
    """Model family."""
    degree: int = Field(1, ge=0, le=9)
    """The highest power."""


class PolynomialBatchConfig(Section):
    """How many points a step sees."""

    global_size: Count
    """Points per optimizer step over all ranks."""
    micro_size: MicroSize = 1
    """Points per forward pass of one rank."""


class PolynomialDataConfig(Section):
    """Where points come from."""

    train: PathText
    """File of two numbers a line."""


class PolynomialConfig(DescentConfig):
    """A run that fits a polynomial."""

    model: PolynomialModelConfig
    batch: PolynomialBatchConfig
    data: PolynomialDataConfig


RULES = (
    *replicas.rules("points"),
    Rule[PolynomialConfig](
        name="a constant has nothing to learn from batches",
        key="model.degree",
        applies=lambda s: s.config.model.degree == 0,
        holds=lambda s: s.config.batch.global_size == 1,
        message=lambda s: f"a constant needs no batch of {s.config.batch.global_size}",
        remedies={"model.degree": lambda s: (1,)},
    ),
    *DESCENT,
)
