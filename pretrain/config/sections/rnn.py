"""A run that trains a recurrent language model."""

from typing import Literal

from pydantic import Field

from pretrain.config.sections.common import ModelConfig
from pretrain.config.sections.descent import DescentConfig
from pretrain.config.sections.section import (
    GlobalSize,
    Layers,
    MicroSize,
    Section,
    SequenceLength,
    Width,
)
from pretrain.config.sections.text import TextDataConfig, TextEvalConfig


class RnnModelConfig(ModelConfig):
    """A recurrent language model: an embedding, layers that read one token after another, an output head."""

    kind: Literal["rnn"]
    """Model family."""
    cell: Literal["rnn", "lstm", "gru"]
    """rnn: tanh of a sum (Elman 1990). lstm: a memory behind three gates (Hochreiter & Schmidhuber 1997, Gers
    et al. 2000). gru: two gates (Cho et al. 2014)."""
    num_layers: Layers
    """Recurrent layers, one upon another."""
    hidden_size: Width
    """Width of the embedding and of every layer."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after the embedding and after every layer, not between steps in time (Zaremba et al. 2014)."""
    tie_embeddings: bool = True
    """The output head shares the token embedding's weight."""


class RnnBatchConfig(Section):
    """How much text a step sees. Gradient accumulation follows from these and the world size."""

    global_size: GlobalSize
    """Streams that are read side by side over all ranks, each going on where it was in the step before; a
    multiple of micro_size x processes."""
    micro_size: MicroSize = 1
    """Streams per forward pass of one rank."""
    sequence_length: SequenceLength
    """Tokens of a stream per step. Gradients go back no further; the state of the layers goes on (truncated
    back-propagation through time, Williams & Peng 1990)."""


class RnnConfig(DescentConfig):
    """A run that trains a recurrent language model on token shards."""

    model: RnnModelConfig
    batch: RnnBatchConfig
    data: TextDataConfig
    eval: TextEvalConfig = TextEvalConfig()
