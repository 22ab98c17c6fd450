"""What runs have that train a transformer on text, on megatron-core."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.common import EvalConfig, ModelConfig
from pretrain.config.sections.descent import DescentConfig
from pretrain.config.sections.resume import LAYOUT, SCORED_SHARDS, SCORES, may_change, must_agree
from pretrain.config.sections.section import (
    Count,
    GlobalSize,
    Layers,
    MicroSize,
    PathText,
    Section,
    SequenceLength,
    Width,
)
from pretrain.config.sections.source import ShardDataConfig, Sources
from pretrain.config.sections.stages import CorpusScheduleConfig

Activation = Literal["gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh"]


class TextModelConfig(ModelConfig):
    """A transformer."""

    num_layers: Layers
    """Transformer layers; a multiple of pipeline x virtual_pipeline."""
    hidden_size: Width
    """Width of the residual stream; a multiple of `num_attention_heads` unless heads have a size of their
    own."""
    num_attention_heads: Count
    """Attention heads; a multiple of `parallel.tensor`. With rotary positions their size is even."""
    num_query_groups: Count | None = None
    """Key/value heads of grouped-query attention (Ainslie et al. 2023); null: one per head. Divides the
    heads, and is a multiple of `parallel.tensor`."""
    ffn_hidden_size: Width | None = None
    """Width of the feed-forward layer; null: 4 x `hidden_size`, or 8/3 of it rounded up to a multiple of 64
    if it is gated."""
    position_embedding: Literal["learned", "rotary"] = "learned"
    """learned: one vector per position up to `batch.sequence_length`. rotary: RoPE (Su et al. 2021)."""
    rotary_base: Count | None = None
    """Base of the rotary frequencies; null: 10,000. Only with position_embedding: rotary."""
    normalization: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation before attention, before the feed-forward layer and at the end."""
    norm_epsilon: float = Field(1e-5, gt=0)
    """Added to the variance in the normalisation."""
    activation: Activation = "gelu_tanh"
    """Feed-forward activation; gelu_tanh is GPT-2's approximation. swiglu, geglu and geglu_tanh are gated
    (Shazeer 2020)."""
    bias: bool = True
    """Biases in the linear layers."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after the embedding, on attention weights and on each residual branch."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial embeddings and, unless `linear_init_std` says otherwise, of all
    matrices; those that write into the residual stream get it divided by sqrt(2 num_layers)."""
    linear_init_std: float | None = Field(None, gt=0)
    """Standard deviation of the initial weights of linear layers; null: `init_std`."""
    vocab_multiple: Count = 128
    """The embedding is padded to a multiple of this many rows, whatever the layout. Padding rows never
    receive probability or gradient."""


class BatchConfig(Section):
    """How many samples a step sees. Gradient accumulation follows from these and the world size."""

    global_size: GlobalSize
    """Samples per optimizer step over all ranks; a multiple of micro_size x data parallel size."""
    micro_size: MicroSize = 1
    """Samples per forward pass of one rank."""
    sequence_length: SequenceLength
    """Tokens per sample; a multiple of 2 x `parallel.context`, and of context x tensor with
    `parallel.sequence`."""


class ParallelConfig(Section):
    """How a model and its batch are laid over the ranks; data parallelism takes what is left."""

    RESUME = LAYOUT

    tensor: Count = 1
    """Tensor parallel size (Shoeybi et al. 2019)."""
    pipeline: Count = 1
    """Pipeline stages."""
    virtual_pipeline: Count | None = None
    """Model chunks per pipeline stage (interleaved schedule, Narayanan et al. 2021); null: one. The number of
    micro-batches must then be a multiple of `pipeline`."""
    context: Count = 1
    """Context parallel size: the sequence is split over this many ranks."""
    sequence: bool = False
    """Sequence parallelism of norms and dropout in the tensor parallel group (Korthikanti et al. 2022)."""
    distributed_optimizer: bool = False
    """Shard optimizer states over the data and context parallel ranks (ZeRO stage 1, Rajbhandari et al.
    2020)."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass goes on."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recomputation: the attention core alone (selective) or whole layers (full)."""

    @property
    def ranks(self) -> int:
        """Ranks that hold one replica of the model: tensor x pipeline x context."""
        return self.tensor * self.pipeline * self.context


class TextDataConfig(ShardDataConfig):
    """Where tokens come from. A path may stand for a list of one source of weight 1."""

    validation: Annotated[Sources | None, SCORED_SHARDS] = None
    """Shard directories to validate on; null: split `validation_fraction` off the end of each source in
    `train`. Weights mean nothing here and are refused: every token is scored once."""
    validation_fraction: Annotated[
        float | None, must_agree("decides which part of a source is trained on")
    ] = Field(None, gt=0, lt=1)
    """Share of each training source, at its end, that is held out; the cut falls on a document's start
    where there is one. Only without `validation`."""
    tokenizer: Annotated[
        PathText | None, may_change("the tokenizer may be moved: its fingerprint is compared")
    ] = None
    """Tokenizer directory the shards must have been built with; null: the one the shards carry."""


class TextEvalConfig(EvalConfig):
    """Validation during training."""

    max_windows: Annotated[Count | None, must_agree(SCORES)] = None
    """Validate on the first this many sequences of each source; null: on all of them."""


class TextConfig(DescentConfig):
    """A run that trains a transformer on megatron-core."""

    model: TextModelConfig
    batch: BatchConfig
    parallel: ParallelConfig = ParallelConfig()

    @property
    def replica_ranks(self) -> int:
        return self.parallel.ranks

    @property
    def resets_at_document_end(self) -> bool:
        """Whether a document is seen without what stands before it."""
        return False

    @property
    def corpus_schedule(self) -> CorpusScheduleConfig:
        """What a schedule says of batches that grow and of lengths in tokens; here it cannot say anything."""
        return CorpusScheduleConfig()


class CorpusConfig(TextConfig):
    """A run that trains on token shards."""

    data: TextDataConfig
    schedule: CorpusScheduleConfig = CorpusScheduleConfig()
    eval: TextEvalConfig = TextEvalConfig()

    @property
    def corpus_schedule(self) -> CorpusScheduleConfig:
        """Its own."""
        return self.schedule
