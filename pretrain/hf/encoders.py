"""BERT's layouts: the original, with norms after the sums, and Megatron's, with norms before sublayers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from pretrain.config.derived import ffn_hidden_size
from pretrain.config.sections import BertConfig, FinetuneConfig, TextConfig
from pretrain.hf.architecture import Architecture, of_real_tokens
from pretrain.hf.fields import dropout, only, plain, renamed
from pretrain.hf.modules import Module, Sizes, bert_heads, encoder_modules, finetuned_heads
from pretrain.megatron.layers.encoder import TOKEN_TYPES
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims

POOLER = "bert.pooler.dense.weight"
HEAD = "cls.predictions"


@dataclass(frozen=True)
class Encoder(Architecture):
    """A pretrained BERT; its second class has no next sentences, its third no heads."""

    kind = "bert"
    holds: ClassVar[type[TextConfig]] = BertConfig
    reads_padding = True

    def lacking(self, class_name: str) -> tuple[str, ...]:
        """See `Architecture`: the heads of pretraining."""
        return ("masked_head.", "output_layer.", "next_sentence.") if class_name == self.classes[2] else ()

    def class_of(self, config: Any) -> str:
        return self.classes[0 if config.data.nsp else 1]

    def modules(self, config: Any, sizes: Sizes) -> Iterator[Module]:
        yield from encoder_modules(config, sizes)
        yield from bert_heads(config, sizes)

    def family(self, config: Any, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.bert.spec import BertSpec

        return BertSpec(config, layout)

    def logits(
        self, chunk: Any, tokens_BS: Tensor, positions_S: Tensor, types_BS: Tensor, real_BS: Tensor
    ) -> list[Tensor]:
        """Logits of real tokens, and of pairs."""
        positions, mask = positions_S.expand_as(tokens_BS), real_BS[:, None, None]
        flat = real_BS.t().flatten().nonzero()[:, 0]
        logits_MV, pairs_B2 = chunk(tokens_BS, types_BS, positions, mask, flat)
        return [logits_MV] if pairs_B2 is None else [logits_MV, pairs_B2]

    def copies(self, config: Any) -> Mapping[str, str]:
        """The head's weight is the embedding, and its bias has two names."""
        (embedding,) = self.theirs("embedding.word_embeddings")
        return {f"{HEAD}.decoder.weight": f"{embedding}.weight", f"{HEAD}.decoder.bias": f"{HEAD}.bias"}

    def their_config(self, config: Any, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """See `Architecture`."""
        return super().their_config(config, vocab_size, ids) | {"pad_token_id": ids.get("pad")}

    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        """See `Architecture`. The tensors show whether there are next sentences."""
        return super().our_keys(theirs, names) | {"data": {"nsp": POOLER in names}}


@dataclass(frozen=True)
class FinetunedEncoder(Encoder):
    """A classifier of texts or, its second class, of words; exported, not imported."""

    holds = FinetuneConfig
    named: tuple[str, ...] = ()
    """The classes, in the order of their numbers."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.named

    def class_of(self, config: FinetuneConfig) -> str:
        return self.classes[1 if config.tagged else 0]

    def modules(self, config: FinetuneConfig, sizes: Sizes) -> Iterator[Module]:
        yield from encoder_modules(config, sizes)
        yield from finetuned_heads(config, sizes, len(self.named))

    def family(self, config: FinetuneConfig, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.bert.finetune.spec import FinetuneSpec

        return FinetuneSpec(config, layout, len(self.named), commonest=0, tagged=config.tagged)

    def logits(
        self, chunk: Any, tokens_BS: Tensor, positions_S: Tensor, types_BS: Tensor, real_BS: Tensor
    ) -> list[Tensor]:
        """Logits of texts, or of real tokens."""
        positions, mask = positions_S.expand_as(tokens_BS), real_BS[:, None, None]
        return [of_real_tokens(chunk(tokens_BS, types_BS, positions, mask), real_BS)]

    def copies(self, config: Any) -> Mapping[str, str]:
        """There are none, as there is no head over the vocabulary."""
        return {}

    def their_config(self, config: Any, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """See `Architecture`; includes the names of the classes."""
        numbered = dict(enumerate(self.named))
        found = super().their_config(config, vocab_size, ids)
        found |= {"id2label": numbered, "label2id": {name: number for number, name in numbered.items()}}
        return found if config.tagged else found | {"problem_type": "single_label_classification"}


def finetuned(row: Encoder, labels: tuple[str, ...]) -> FinetunedEncoder:
    """The layout of a classifier on top of an encoder."""
    same = {field.name: getattr(row, field.name) for field in fields(Encoder)}
    prefix = row.classes[0].removesuffix("ForPreTraining")
    same["classes"] = (f"{prefix}ForSequenceClassification", f"{prefix}ForTokenClassification")
    return FinetunedEncoder(**same, named=labels)


_OURS, _LAYER = "encoder.layers.*.", "bert.encoder.layer.*."
_NAMES = {
    "embedding.word_embeddings": "bert.embeddings.word_embeddings",
    "embedding.position_embeddings": "bert.embeddings.position_embeddings",
    "embedding.tokentype_embeddings": "bert.embeddings.token_type_embeddings",
    f"{_OURS}self_attention.linear_qkv": [
        f"{_LAYER}attention.self.{each}" for each in ("query", "key", "value")
    ],
    f"{_OURS}self_attention.linear_proj": f"{_LAYER}attention.output.dense",
    f"{_OURS}mlp.linear_fc1": f"{_LAYER}intermediate.dense",
    f"{_OURS}mlp.linear_fc2": f"{_LAYER}output.dense",
    "masked_head.dense": f"{HEAD}.transform.dense",
    "masked_head.norm": f"{HEAD}.transform.LayerNorm",
    "output_layer": HEAD,
    "pooler": "bert.pooler.dense",
    "next_sentence": "cls.seq_relationship",
    "classes": "classifier",
}
_POST_NAMES = {
    "embedding.embedding_dropout.norm": "bert.embeddings.LayerNorm",
    f"{_OURS}self_attn_bda.norm": f"{_LAYER}attention.output.LayerNorm",
    f"{_OURS}mlp_bda.norm": f"{_LAYER}output.LayerNorm",
}
_PRE_NAMES = {
    f"{_OURS}input_layernorm": f"{_LAYER}attention.ln",
    f"{_OURS}pre_mlp_layernorm": f"{_LAYER}ln",
    "encoder.final_layernorm": "bert.encoder.ln",
}
_FIELDS = (
    plain("max_position_embeddings", "batch.sequence_length"),
    plain("hidden_size", "hidden_size"),
    plain("intermediate_size", "ffn_hidden_size", ffn_hidden_size),
    plain("num_hidden_layers", "num_layers"),
    plain("num_attention_heads", "num_attention_heads"),
    renamed(
        "hidden_act",
        "activation",
        {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
    ),
    dropout("hidden_dropout_prob", "attention_probs_dropout_prob"),
    plain("layer_norm_eps", "norm_epsilon"),
    plain("initializer_range", "init_std"),
    only("type_vocab_size", TOKEN_TYPES),
    only("tie_word_embeddings", True),
    only("is_decoder", False),
    only("add_cross_attention", False),
    only("is_encoder_decoder", False),
    only("position_embedding_type", "absolute", written=False),
)
_IMPLIED = {"position_embedding": "learned", "normalization": "layernorm", "bias": True}

BERT = Encoder(
    classes=("BertForPreTraining", "BertForMaskedLM", "BertModel"),
    base="bert.",
    ignored=("embeddings.position_ids",),
    names=_NAMES | _POST_NAMES,
    parts=_FIELDS,
    implied=_IMPLIED | {"norm_position": "post"},
)
MEGATRON_BERT = replace(
    BERT,
    classes=("MegatronBertForPreTraining", "MegatronBertForMaskedLM", "MegatronBertModel"),
    names=_NAMES | _PRE_NAMES,
    implied=_IMPLIED | {"norm_position": "pre"},
)
ENCODERS = (MEGATRON_BERT, BERT)
