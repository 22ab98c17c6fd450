"""The modules of our models that have weights: name, shape, biases, in the order of the model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pretrain.config.derived import ffn_hidden_size, padded_vocab_size, query_groups
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
        heads = model.num_attention_heads
        return cls(
            hidden=model.hidden_size,
            ffn=ffn_hidden_size(model),
            heads=heads,
            groups=query_groups(model),
            head=model.hidden_size // heads,
            vocabulary=vocab_size,
            rows=padded_vocab_size(vocab_size, model.vocab_multiple),
        )


def decoder_modules(config: DecoderConfig, sizes: Sizes) -> Iterator[Module]:
    model, hidden = config.model, sizes.hidden
    yield from _embeddings(config, sizes)
    for number in range(model.num_layers):
        yield from _layer(model, sizes, "decoder", number, ("input_layernorm", "pre_mlp_layernorm"))
    yield _norm(model, "decoder.final_layernorm")
    if not model.tie_embeddings:
        yield Module("output_layer", (sizes.rows, hidden))


def encoder_modules(config: Any, sizes: Sizes) -> Iterator[Module]:
    """Those of a BERT without its heads."""
    model, post = config.model, config.model.norm_position == "post"
    norms = ("self_attn_bda.norm", "mlp_bda.norm") if post else ("input_layernorm", "pre_mlp_layernorm")
    yield from _embeddings(config, sizes)
    yield Module("embedding.tokentype_embeddings", (TOKEN_TYPES, sizes.hidden))
    if post:
        yield _norm(model, "embedding.embedding_dropout.norm")
    for number in range(model.num_layers):
        yield from _layer(model, sizes, "encoder", number, norms)
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
    model: TextModelConfig, sizes: Sizes, block: str, number: int, norms: tuple[str, str]
) -> Iterator[Module]:
    attention, hidden = sizes.heads * sizes.head, sizes.hidden
    qkv = attention + 2 * sizes.groups * sizes.head
    up = 2 * sizes.ffn if model.activation == "swiglu" else sizes.ffn
    each = (
        _norm(model, norms[0]),
        Module("self_attention.linear_qkv", (qkv, hidden), model.bias),
        Module("self_attention.linear_proj", (hidden, attention), model.bias),
        _norm(model, norms[1]),
        Module("mlp.linear_fc1", (up, hidden), model.bias),
        Module("mlp.linear_fc2", (hidden, sizes.ffn), model.bias),
    )
    for module in each:
        yield replace(module, name=f"{block}.layers.*.{module.name}", layer=number)


def _norm(model: TextModelConfig, name: str) -> Module:
    return Module(name, (model.hidden_size,), bias=model.normalization == "layernorm")
