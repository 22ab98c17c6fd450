"""The modules of our models that have weights: name, shape, biases, in the order of the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pretrain.config.derived import ffn_hidden_size, gated, head_size, padded_vocab_size, query_groups
from pretrain.config.sections import BertConfig, DecoderConfig, FinetuneConfig, TextConfig, TextModelConfig
from pretrain.megatron.layers.encoder import TOKEN_TYPES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Module:
    """A module with a weight, a bias or both."""

    name: str
    shape: Shape
    """Of the weight; the bias has its first axis."""
    bias: bool = False
    weight: bool = True
    layer: int | None = None
    """Number of the transformer layer; its place in `name` is a `*`."""

    @property
    def linear(self) -> bool:
        return len(self.shape) == 2 and "embedding" not in self.name

    def key(self, kind: str) -> str:
        """The logical name of its weight or bias."""
        return f"{self.name.replace('*', str(self.layer))}.{kind}"


@dataclass(frozen=True)
class Sizes:
    """The numbers that shapes are made of."""

    hidden: int
    ffn: int
    heads: int
    groups: int
    head: int
    vocabulary: int
    rows: int
    """Rows of the embedding, including padding."""

    @classmethod
    def of(cls, model: TextModelConfig, vocab_size: int) -> "Sizes":
        return cls(
            hidden=model.hidden_size,
            ffn=ffn_hidden_size(model),
            heads=model.num_attention_heads,
            groups=query_groups(model),
            head=head_size(model),
            vocabulary=vocab_size,
            rows=padded_vocab_size(vocab_size, model.vocab_multiple),
        )


PRE_NORMS = ("input_layernorm", "pre_mlp_layernorm")
OUTPUT_NORMS = ("self_attn_bda.norm", "mlp_bda.norm")
"""Names of the norms before attention and feed-forward layer, and after them."""


def decoder_modules(config: DecoderConfig, sizes: Sizes) -> Iterator[Module]:
    model, attention = config.model, "decoder.layers.*.self_attention."
    before = PRE_NORMS if model.norm_position != "output" else ()
    after = OUTPUT_NORMS if model.norm_position != "pre" else ()
    biased = model.bias or model.qkv_bias
    per_head = model.qk_norm == "head"
    yield from _embeddings(config, sizes)
    for number in range(model.num_layers):
        yield from _layer(model, sizes, "decoder", number, before, after, biased)
        if model.qk_norm:
            for name, heads in (("q_layernorm", sizes.heads), ("k_layernorm", sizes.groups)):
                width = sizes.head * (1 if per_head else heads)
                yield replace(_norm(model, f"{attention}{name}", width), layer=number)
    yield _norm(model, "decoder.final_layernorm")
    if not model.tie_embeddings:
        yield Module("output_layer", (sizes.rows, sizes.hidden))


def encoder_modules(config: Any, sizes: Sizes) -> Iterator[Module]:
    """Those of a BERT without its heads."""
    model, post = config.model, config.model.norm_position == "post"
    yield from _embeddings(config, sizes)
    yield Module("embedding.tokentype_embeddings", (TOKEN_TYPES, sizes.hidden))
    if post:
        yield _norm(model, "embedding.embedding_dropout.norm")
    for number in range(model.num_layers):
        before, after = ((), OUTPUT_NORMS) if post else (PRE_NORMS, ())
        yield from _layer(model, sizes, "encoder", number, before, after, model.bias)
    if not post:
        yield _norm(model, "encoder.final_layernorm")


def bert_heads(config: BertConfig, sizes: Sizes) -> Iterator[Module]:
    model, square = config.model, (sizes.hidden, sizes.hidden)
    yield Module("masked_head.dense", square, model.bias)
    yield _norm(model, "masked_head.norm")
    if model.bias:
        yield Module("output_layer", (sizes.rows,), bias=True, weight=False)
    if config.data.nsp:
        yield Module("pooler", square, model.bias)
        yield Module("next_sentence", (2, sizes.hidden), model.bias)


def finetuned_heads(config: FinetuneConfig, sizes: Sizes, classes: int) -> Iterator[Module]:
    if not config.tagged:
        yield Module("pooler", (sizes.hidden, sizes.hidden), bias=True)
    yield Module("classes", (classes, sizes.hidden), bias=True)


def _embeddings(config: TextConfig, sizes: Sizes) -> Iterator[Module]:
    yield Module("embedding.word_embeddings", (sizes.rows, sizes.hidden))
    if config.model.position_embedding == "learned":
        yield Module("embedding.position_embeddings", (config.batch.sequence_length, sizes.hidden))


def _layer(
    model: TextModelConfig,
    sizes: Sizes,
    block: str,
    number: int,
    before: Sequence[str],
    after: Sequence[str],
    qkv_bias: bool,
) -> Iterator[Module]:
    attention, hidden = sizes.heads * sizes.head, sizes.hidden
    qkv = attention + 2 * sizes.groups * sizes.head
    up = 2 * sizes.ffn if gated(model) else sizes.ffn
    linear = (
        Module("self_attention.linear_qkv", (qkv, hidden), qkv_bias),
        Module("self_attention.linear_proj", (hidden, attention), model.bias),
        Module("mlp.linear_fc1", (up, hidden), model.bias),
        Module("mlp.linear_fc2", (hidden, sizes.ffn), model.bias),
    )
    for module in (*(_norm(model, name) for name in (*before, *after)), *linear):
        yield replace(module, name=f"{block}.layers.*.{module.name}", layer=number)


def _norm(model: TextModelConfig, name: str, width: int | None = None) -> Module:
    return Module(name, (width or model.hidden_size,), bias=model.normalization == "layernorm")
