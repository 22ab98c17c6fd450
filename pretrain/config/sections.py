"""Every key of a config file: its type, its default and what it means.

Each class is one section of the YAML file. The docstring under a field is the documentation of its key.
Rules that concern one key stand here; rules between keys stand in `rules.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

LARGEST_COUNT = 2**31 - 1
"""No count in a config exceeds this; it keeps arithmetic on them far from 64 bits."""


def _plain_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _plain_path(text: str) -> str:
    """A path is taken as it stands: what a shell would have expanded is refused, not used as a name."""
    if text.startswith("~") or "$" in text:
        raise ValueError("'~' and '$' are not expanded in a config; write the path out")
    return _plain_text(text)


def _as_sources(value: Any) -> Any:
    """One path, or a list of paths and mappings, as a tuple of mappings."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return tuple({"path": item} if isinstance(item, str) else item for item in value)
    return value


Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
PathText = Annotated[str, AfterValidator(_plain_path)]
Name = Annotated[str, AfterValidator(_plain_text)]


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RunConfig(Section):
    """What a run is called, how long it goes on and where it lives."""

    dir: PathText
    """Run folder: config, metrics, logs and checkpoints. Relative to the working directory."""
    seed: int = Field(1234, ge=0, lt=2**32)
    """Seed of the initial weights, the order of samples and dropout."""
    steps: Count
    """Optimizer steps of the whole run, counted from the first start, not from a resume."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the newest good checkpoint in `run.dir`. never: start at step 0; refused where
    the folder holds checkpoints already."""


class ModelConfig(Section):
    """A GPT: a decoder-only transformer (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners"), with the options of its successors."""

    kind: Literal["gpt"]
    """Model family."""
    num_layers: Count
    """Transformer layers; a multiple of pipeline x virtual_pipeline."""
    hidden_size: Count
    """Width of the residual stream; a multiple of `num_attention_heads`."""
    num_attention_heads: Count
    """Attention heads; a multiple of `parallel.tensor`. With rotary positions their size is even."""
    num_query_groups: Count | None = None
    """Key/value heads of grouped-query attention (Ainslie et al. 2023); null: one per head. Divides the
    heads, and is a multiple of `parallel.tensor`."""
    ffn_hidden_size: Count | None = None
    """Width of the feed-forward layer; null: 4 x `hidden_size`, or 8/3 of it rounded up to a multiple of 64
    for swiglu."""
    position_embedding: Literal["learned", "rotary"] = "learned"
    """learned: one vector per position up to `batch.sequence_length`. rotary: RoPE (Su et al. 2021)."""
    rotary_base: Count | None = None
    """Base of the rotary frequencies; null: 10,000. Only with position_embedding: rotary."""
    normalization: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation before attention, before the feed-forward layer and at the end."""
    norm_epsilon: float = Field(1e-5, gt=0)
    """Added to the variance in the normalisation."""
    activation: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu_tanh"
    """Feed-forward activation; gelu_tanh is GPT-2's approximation, swiglu is Shazeer (2020)."""
    bias: bool = True
    """Biases in the linear layers."""
    tie_embeddings: bool = True
    """The output head shares the token embedding's weight."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after the embedding, on attention weights and on each residual branch."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights; residual projections get init_std / sqrt(2 num_layers)."""
    vocab_multiple: Count = 128
    """The embedding is padded to a multiple of this many rows, whatever the layout. Padding rows never
    receive probability or gradient."""


class BatchConfig(Section):
    """How many samples a step sees. Gradient accumulation follows from these and the world size."""

    global_size: Count
    """Samples per optimizer step over all ranks; a multiple of micro_size x data parallel size."""
    micro_size: Count = 1
    """Samples per forward pass of one rank."""
    sequence_length: Count
    """Tokens per sample; a multiple of 2 x `parallel.context`, and of context x tensor with
    `parallel.sequence`."""


class ParallelConfig(Section):
    """How a model and its batch are laid over the ranks; data parallelism takes what is left."""

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


class OptimizerConfig(Section):
    """AdamW (Loshchilov & Hutter 2019)."""

    lr: float = Field(gt=0)
    """Peak learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of matrices; biases and norms have none."""
    clip_grad: float = Field(1.0, ge=0)
    """Global gradient norm to clip to; 0: no clipping."""


class ScheduleConfig(Section):
    """Learning rate over steps: linear warm-up, then a decay to `min_lr`."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; wsd is warm-up, stable, decay (Hu et al. 2024)."""
    warmup_steps: int = Field(0, ge=0, le=LARGEST_COUNT)
    """Steps of linear warm-up from 0."""
    min_lr: float | None = Field(None, ge=0)
    """Learning rate at the end of the decay; null: a tenth of `optimizer.lr`. Not with kind: constant."""
    decay_steps: Count | None = None
    """cosine, linear: the step at which `min_lr` is reached, null: `run.steps`. wsd: length of the final
    decay, null: a tenth of `run.steps`. Not with kind: constant."""


class Source(Section):
    """One shard directory of a blend."""

    path: PathText
    """Shard directory, made by `pretrain data build`."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources), Field(min_length=1)]


class DataConfig(Section):
    """Where tokens come from. A path may stand for a list of one source of weight 1."""

    train: Sources
    """Shard directory, or a list of {path, weight}."""
    validation: Sources | None = None
    """Shard directories to validate on; null: split `validation_fraction` off the end of each source in
    `train`. Weights mean nothing here and are refused: every token is scored once."""
    validation_fraction: float | None = Field(None, gt=0, lt=1)
    """Share of each training source, at its end, that is held out; the cut falls on a document's start
    where there is one. Only without `validation`."""
    tokenizer: PathText | None = None
    """Tokenizer directory the shards must have been built with; null: the one the shards carry."""
    reset_at_document_end: bool = False
    """Attention does not cross document ends, and positions start again at each document."""


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept. The last step is always saved."""

    every: Count | None = None
    """Steps between checkpoints; null: only at the end of the run."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_every: Count | None = None
    """Also keep every checkpoint whose step is a multiple of this, for ever; a multiple of `every`."""
    async_: bool = Field(False, alias="async")
    """Write in the background while training goes on."""
    max_failures: Count = 3
    """Saves in a row that may fail before the run stops."""


class EvalConfig(Section):
    """Validation during training."""

    every: Count | None = None
    """Steps between validations; null: only at the end, where there is validation data."""
    max_windows: Count | None = None
    """Validate on the first this many sequences of each source; null: on all of them."""


class TrackingConfig(Section):
    """MLflow. metrics.jsonl in the run folder is written in any case."""

    enabled: bool = True
    """Send metrics to MLflow while training; when false, `pretrain sync` can do so later."""
    uri: Name | None = None
    """MLflow tracking URI, a server or a database, for training and `pretrain sync`; null: sqlite in the run
    folder."""
    experiment: Name = "pretrain"
    """MLflow experiment."""


class HealthConfig(Section):
    """What to do about numbers that are not finite, losses that jump and replicas that drift apart. A run
    that is stopped ends with exit code 4."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient on any rank: stop the run, or skip the update."""
    max_skips: Count | None = None
    """Skipped updates in a row before the run stops; null: 10. Only with on_nonfinite: skip."""
    on_spike: Literal["ignore", "report", "rollback"] = "report"
    """A loss far above its recent values: say so in log and journal, or go back to the last good checkpoint
    and jump over the samples seen since, those of the spike included. rollback needs `checkpoint.every`."""
    spike_window: int | None = Field(None, ge=8, le=10_000)
    """Losses that a loss is compared with, and steps before the first verdict; null: 64."""
    spike_threshold: float | None = Field(None, gt=0)
    """A spike is above the window's median by more than this many standard deviations, estimated from the
    median absolute deviation; null: 10."""
    max_rollbacks: Count | None = None
    """Rollbacks in the whole run before a spike stops it; null: 3. Only with on_spike: rollback."""
    replica_check_every: int | None = Field(None, ge=0, le=LARGEST_COUNT)
    """Steps between checks that ranks hold the same bits of what they share, weights and optimizer; null:
    before each checkpoint alone, 0: never. Any number above 0 adds to the check before each checkpoint."""


class Config(Section):
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    batch: BatchConfig
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; master weights and optimizer states are fp32 in both."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()
    health: HealthConfig = HealthConfig()
