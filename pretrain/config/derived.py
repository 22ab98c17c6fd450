"""Numbers that follow from a config: defaults that depend on other keys, and sizes of a layout.

This is the only place where a `null` becomes a number, so trainer, check and documentation cannot disagree.
"""

from dataclasses import dataclass
from typing import cast

from pretrain.config.sections import (
    BertConfig,
    CnnConfig,
    Config,
    DecoderConfig,
    DecoderModelConfig,
    DescentConfig,
    RnnConfig,
    TextConfig,
    TextModelConfig,
)

PROFILED_FROM = 5
"""The first step of a job that is profiled: earlier ones allocate memory and connect to other ranks."""


def gated(model: TextModelConfig) -> bool:
    """Whether the feed-forward layer has a gate beside its input."""
    return "glu" in model.activation


def ffn_hidden_size(model: TextModelConfig) -> int:
    """Width of the feed-forward layer: 4 x hidden, or with a gate 8/3 x hidden up to a multiple of 64."""
    if model.ffn_hidden_size is not None:
        return model.ffn_hidden_size
    if gated(model):
        return -(-8 * model.hidden_size // (3 * 64)) * 64
    return 4 * model.hidden_size


def head_size(model: TextModelConfig) -> int:
    """Width of one attention head."""
    return getattr(model, "head_size", None) or model.hidden_size // model.num_attention_heads


def rotary_size(model: TextModelConfig) -> int:
    """Numbers of each head that rotary positions turn."""
    return int(head_size(model) * (getattr(model, "rotary_fraction", None) or 1))


def rotary_turns(model: DecoderModelConfig) -> tuple[float, float]:
    """Turns within `rotary_original_length` of frequencies that are scaled whole, and of those that are not
    scaled (llama3, yarn)."""
    fast = 32.0 if model.rotary_scaling == "yarn" else 4.0
    return model.rotary_slow_turns or 1.0, model.rotary_fast_turns or fast


def has_window(model: DecoderModelConfig, layer: int) -> bool:
    """Whether a layer, from 0, attends within `window` alone."""
    pattern = model.window_pattern or ("window",)
    return model.window is not None and pattern[layer % len(pattern)] == "window"


def windows(model: TextModelConfig) -> list[int | None]:
    """Tokens that a token attends to in each layer; None: all that it may see."""
    if getattr(model, "window", None) is None:
        return [None] * model.num_layers
    decoder = cast(DecoderModelConfig, model)
    return [decoder.window if has_window(decoder, layer) else None for layer in range(model.num_layers)]


def query_groups(model: TextModelConfig) -> int:
    """Key/value heads: one per attention head unless the config says fewer."""
    return model.num_query_groups or model.num_attention_heads


def rotary_base(model: TextModelConfig) -> int:
    return model.rotary_base or 10_000


def linear_init_std(model: TextModelConfig) -> float:
    """Standard deviation of the initial weights of linear layers."""
    return model.linear_init_std or model.init_std


def min_lr(config: DescentConfig) -> float:
    """Learning rate at the end of the decay: a tenth of the peak unless the config says otherwise."""
    given = config.schedule.min_lr
    return config.optimizer.lr / 10 if given is None else given


def decay_steps(config: DescentConfig) -> int:
    """cosine, linear: the step at which `min_lr` is reached. wsd: the length of the final decay."""
    given = config.schedule.decay_steps
    if given is not None:
        return given
    return final_decay(config.run.steps, given) if config.schedule.kind == "wsd" else config.run.steps


def final_decay(steps: int, given: int | None) -> int:
    """wsd: the length of the final decay of a run of `steps`: `given`, or a tenth of the run."""
    return max(1, round(steps * 0.1)) if given is None else given


def max_skips(config: DescentConfig) -> int:
    """Skipped updates in a row before the run stops."""
    return config.health.max_skips or 10


def spike_window(config: DescentConfig) -> int:
    """Losses that a loss is compared with; 0 if no loss is judged."""
    if config.health.on_spike == "ignore":
        return 0
    return config.health.spike_window or 64


def spike_threshold(config: DescentConfig) -> float:
    """Standard deviations above the median that make a loss a spike."""
    return config.health.spike_threshold or 10.0


def max_rollbacks(config: DescentConfig) -> int:
    """Rollbacks in the whole run before a spike stops it."""
    return config.health.max_rollbacks or 3


def short_sequence_probability(config: BertConfig) -> float:
    """Share of the pairs that are cut to a random shorter length; 0 if samples are not pairs."""
    given = config.data.short_sequence_probability
    if not config.data.nsp:
        return 0.0
    return 0.1 if given is None else given


def max_span(config: BertConfig) -> int:
    """Longest span in words that is masked together."""
    return config.data.max_span or 10


def padded_vocab_size(vocab_size: int, multiple: int) -> int:
    """Rows of the embedding: the vocabulary up to the next multiple."""
    return -(-vocab_size // multiple) * multiple


def data_parallel_size(config: Config, world_size: int) -> int | None:
    """Replicas in a world of this size; None if the size is not a multiple of one replica."""
    size, rest = divmod(world_size, config.replica_ranks)
    return size if size and not rest else None


def micro_batches(config: TextConfig | CnnConfig | RnnConfig, data_parallel: int) -> int | None:
    """Micro-batches per replica and step (gradient accumulation); None if the batch cannot be divided so."""
    count, rest = divmod(config.batch.global_size, config.batch.micro_size * data_parallel)
    return None if rest else count


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of the whole model, without padding rows of the vocabulary."""

    embedding: int
    """Token, position and token type embeddings, with their norm."""
    layers: int
    """All transformer layers and the final norm."""
    head: int
    """Output heads, without a matrix that is tied to the embedding."""

    @property
    def total(self) -> int:
        return self.embedding + self.layers + self.head


def layer_matrices(model: TextModelConfig) -> int:
    """Elements of one layer's matrices: attention h(2q + 2k), feed-forward 2hf (3hf with a gate)."""
    hidden, ffn = model.hidden_size, ffn_hidden_size(model)
    query, key_value = _widths(model)
    up = 2 * ffn if gated(model) else ffn
    return hidden * (2 * query + 2 * key_value) + hidden * up + ffn * hidden


def _widths(model: TextModelConfig) -> tuple[int, int]:
    """Of all queries of a token, and of all its keys or values."""
    return head_size(model) * model.num_attention_heads, head_size(model) * query_groups(model)


def count_parameters(config: TextConfig, vocab_size: int) -> ParameterCount:
    """Parameters by formula: `layer_matrices`, biases, norms and embeddings."""
    model = config.model
    hidden, ffn = model.hidden_size, ffn_hidden_size(model)
    query, key_value = _widths(model)
    up = 2 * ffn if gated(model) else ffn
    layer = layer_matrices(model)
    layer += (query + 2 * key_value + hidden + up + hidden) if model.bias else 0
    per_width = 2 if model.normalization == "layernorm" else 1
    norm = per_width * hidden
    layer += (4 if getattr(model, "norm_position", "pre") == "both" else 2) * norm
    layer += query + 2 * key_value if getattr(model, "qkv_bias", False) else 0
    normed = {None: 0, "head": 2 * head_size(model), "whole": query + key_value}
    layer += per_width * normed[getattr(model, "qk_norm", None)]
    positions = config.batch.sequence_length * hidden if model.position_embedding == "learned" else 0
    embedding, layers = vocab_size * hidden + positions, model.num_layers * layer
    if isinstance(config, BertConfig):
        embedding += 2 * hidden  # token types
        if config.model.norm_position == "post":
            return ParameterCount(embedding + norm, layers, _bert_heads(config, vocab_size, norm))
        return ParameterCount(embedding, layers + norm, _bert_heads(config, vocab_size, norm))
    tied = not isinstance(config, DecoderConfig) or config.model.tie_embeddings
    return ParameterCount(embedding, layers + norm, 0 if tied else vocab_size * hidden)


def _bert_heads(config: BertConfig, vocab_size: int, norm: int) -> int:
    """The transform of the masked head with its norm and output biases; pooler and next-sentence head."""
    hidden = config.model.hidden_size
    bias = 1 if config.model.bias else 0
    masked = hidden * (hidden + bias) + norm + bias * vocab_size
    return masked + (hidden * (hidden + bias) + 2 * (hidden + bias) if config.data.nsp else 0)
