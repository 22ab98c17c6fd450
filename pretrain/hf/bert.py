"""BERT's layouts: the original, with norms after the sums, and Megatron's, with norms before sublayers."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from pretrain.config.derived import ffn_hidden_size, query_groups
from pretrain.config.sections import BertConfig, FinetuneConfig, TextConfig
from pretrain.data.batch import plain_positions
from pretrain.hf.architecture import (
    THEIR_ACTIVATIONS,
    Architecture,
    activation,
    common_dropout,
    obstacle,
    supports,
)
from pretrain.hf.param_mapping import ParamMapping, Sizes, pair, qkv, same, vocabulary
from pretrain.megatron.layers.encoder import TOKEN_TYPES
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims

Encoder: TypeAlias = BertConfig | FinetuneConfig
POOLER = "bert.pooler.dense.weight"
EMBEDDING = "bert.embeddings.word_embeddings.weight"


class HfBert(Architecture):
    """`BertForPreTraining`; without next sentences `BertForMaskedLM`."""

    kind = "bert"
    holds: ClassVar[type[TextConfig]] = BertConfig
    reads_padding = True
    base = "bert."
    ignored = ("embeddings.position_ids",)
    prefix, heads = "Bert", ("ForPreTraining", "ForMaskedLM")
    position = "post"
    """`model.norm_position`."""

    def class_of(self, config: Any) -> str:
        return self.classes()[0 if config.data.nsp else 1]

    def family(self, config: Any, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.bert.spec import BertSpec

        return BertSpec(config, layout)

    def logits(self, chunk: Any, tokens_BS: Tensor, types_BS: Tensor, real_BS: Tensor) -> list[Tensor]:
        """Logits of real tokens, and of pairs."""
        positions, mask = plain_positions(*tokens_BS.shape), real_BS[:, None, None]
        flat = real_BS.t().flatten().nonzero()[:, 0]
        logits_MV, pairs_B2 = chunk(tokens_BS, types_BS, positions, mask, flat)
        return [logits_MV] if pairs_B2 is None else [logits_MV, pairs_B2]

    def obstacles(self, config: Encoder) -> list[str]:
        found = obstacle(config, "norm_position", self.position)
        found += obstacle(config, "position_embedding", "learned")
        found += obstacle(config, "normalization", "layernorm")
        found += obstacle(config, "activation", *THEIR_ACTIVATIONS)
        if query_groups(config.model) != config.model.num_attention_heads:
            found.append(f"model.num_query_groups: {config.model.num_query_groups}")
        return found + obstacle(config, "bias", True)

    def links(self, config: Encoder, vocab_size: int) -> Iterator[ParamMapping]:
        sizes, there = Sizes.of(config.model, vocab_size), "bert.embeddings."
        hidden, length = sizes.hidden, config.batch.sequence_length
        yield vocabulary("embedding.word_embeddings.weight", EMBEDDING, sizes, hidden)
        yield same(
            "embedding.position_embeddings.weight", f"{there}position_embeddings.weight", length, hidden
        )
        types = f"{there}token_type_embeddings.weight"
        yield same("embedding.tokentype_embeddings.weight", types, TOKEN_TYPES, hidden)
        yield from self._outer_norm(hidden)
        for number in range(config.model.num_layers):
            yield from self._layer(f"encoder.layers.{number}.", f"bert.encoder.layer.{number}.", sizes)
        yield from self._heads(config, sizes)

    def _heads(self, config: Any, sizes: Sizes) -> Iterator[ParamMapping]:
        """Mappings of what comes after the encoder."""
        hidden, head = sizes.hidden, "cls.predictions."
        yield from pair("masked_head.dense", f"{head}transform.dense", hidden, hidden)
        yield from pair("masked_head.norm", f"{head}transform.LayerNorm", hidden)
        yield vocabulary("output_layer.bias", f"{head}bias", sizes)
        if config.data.nsp:
            yield from pair("pooler", "bert.pooler.dense", hidden, hidden)
            yield from pair("next_sentence", "cls.seq_relationship", 2, hidden)

    def _outer_norm(self, hidden: int) -> Iterator[ParamMapping]:
        """The mapping of the one norm that is in no layer."""
        yield from pair("embedding.embedding_dropout.norm", "bert.embeddings.LayerNorm", hidden)

    def _norms(self) -> dict[str, str]:
        return {"self_attn_bda.norm": "attention.output.LayerNorm", "mlp_bda.norm": "output.LayerNorm"}

    def _layer(self, ours: str, theirs: str, sizes: Sizes) -> Iterator[ParamMapping]:
        hidden, ffn = sizes.hidden, sizes.ffn
        for key, name in self._norms().items():
            yield from pair(ours + key, theirs + name, hidden)
        for kind, into in (("weight", (hidden,)), ("bias", ())):
            own = f"{theirs}attention.self."
            names = (f"{own}query.{kind}", f"{own}key.{kind}", f"{own}value.{kind}")
            yield qkv(f"{ours}self_attention.linear_qkv.{kind}", names, sizes, *into)
        yield from pair(
            f"{ours}self_attention.linear_proj", f"{theirs}attention.output.dense", hidden, hidden
        )
        yield from pair(f"{ours}mlp.linear_fc1", f"{theirs}intermediate.dense", ffn, hidden)
        yield from pair(f"{ours}mlp.linear_fc2", f"{theirs}output.dense", hidden, ffn)

    def copies(self, config: Encoder) -> Mapping[str, str]:
        """The head's weight is the embedding, and its bias has two names."""
        head = "cls.predictions."
        return {f"{head}decoder.weight": EMBEDDING, f"{head}decoder.bias": f"{head}bias"}

    def their_config(self, config: Encoder, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        model = config.model
        return {
            "vocab_size": vocab_size,
            "max_position_embeddings": config.batch.sequence_length,
            "hidden_size": model.hidden_size,
            "intermediate_size": ffn_hidden_size(model),
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_attention_heads,
            "hidden_act": THEIR_ACTIVATIONS[model.activation],
            "hidden_dropout_prob": model.dropout,
            "attention_probs_dropout_prob": model.dropout,
            "layer_norm_eps": model.norm_epsilon,
            "initializer_range": model.init_std,
            "type_vocab_size": TOKEN_TYPES,
            "tie_word_embeddings": True,
            "pad_token_id": ids.get("pad"),
        }

    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        """See `Architecture`. The tensors show whether there are next sentences."""
        supports(theirs, theirs.type_vocab_size, TOKEN_TYPES, key="type_vocab_size")
        supports(theirs, theirs.tie_word_embeddings, True, key="tie_word_embeddings")
        supports(theirs, theirs.is_decoder, False, key="is_decoder")
        supports(theirs, theirs.add_cross_attention, False, key="add_cross_attention")
        model = {
            "kind": "bert",
            "num_layers": theirs.num_hidden_layers,
            "hidden_size": theirs.hidden_size,
            "num_attention_heads": theirs.num_attention_heads,
            "ffn_hidden_size": theirs.intermediate_size,
            "activation": activation(theirs, "hidden_act"),
            "dropout": common_dropout(theirs.hidden_dropout_prob, theirs.attention_probs_dropout_prob),
            "norm_epsilon": theirs.layer_norm_eps,
            "norm_position": self.position,
            "init_std": theirs.initializer_range,
        }
        return {
            "model": model,
            "batch": {"sequence_length": theirs.max_position_embeddings},
            "data": {"nsp": POOLER in names},
        }


class HfMegatronBert(HfBert):
    """`MegatronBertForPreTraining`; without next sentences `MegatronBertForMaskedLM`."""

    prefix = "MegatronBert"
    position = "pre"

    def _outer_norm(self, hidden: int) -> Iterator[ParamMapping]:
        yield from pair("encoder.final_layernorm", "bert.encoder.ln", hidden)

    def _norms(self) -> dict[str, str]:
        return {"input_layernorm": "attention.ln", "pre_mlp_layernorm": "ln"}
