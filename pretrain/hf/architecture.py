"""A layout of weights in transformers, as a table: names of modules, fields of its config.json, and what
every model of it has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pretrain.config.sections import DecoderConfig, TextConfig
from pretrain.hf.fields import Part, unknown
from pretrain.hf.modules import Module, Shape, Sizes, decoder_modules
from pretrain.hf.param_mapping import ParamMapping, mappings
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims

NO_FUNCTION = frozenset(
    (
        "kind",
        "dropout",
        "init_std",
        "linear_init_std",
        "vocab_multiple",
        "init_from",
        "init_embeddings",
        "init",
    )
)
"""Keys of `model` that do not change what a trained model computes."""
_NOTES = """
architectures attention_dropout bos_token_id cache_implementation chunk_size_feed_forward classifier_dropout
cls_token_id decoder_start_token_id dtype eos_token_id finetuning_task gradient_checkpointing id2label
label2id mask_token_id model_type name_or_path num_labels output_attentions output_hidden_states pad_token_id
pretraining_tp problem_type quantization_config reorder_and_upcast_attn return_dict sep_token_id
summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
task_specific_params tokenizer_class torch_dtype torchscript transformers_version use_cache vocab_size
"""
NOTES = frozenset(_NOTES.split())
"""Fields of a config.json that change no logits, or that the importer reads itself."""


@dataclass(frozen=True)
class Architecture:
    """One layout of weights in transformers."""

    kind: ClassVar[str]
    """Our `model.kind` that it is imported as."""
    holds: ClassVar[type[TextConfig]]
    """Our config class whose weights may have this layout."""
    reads_padding: ClassVar[bool] = False
    """Whether the model is told which tokens are padding, and which segment each belongs to."""
    generates: ClassVar[bool] = False
    """Whether the model continues texts."""

    classes: tuple[str, ...]
    """The classes of transformers with this layout."""
    base: str
    """Name prefix in a model with a head, which is missing if only the base model was saved."""
    names: Mapping[str, str | Sequence[str]]
    """Our module -> theirs, as `param_mapping.mappings` takes them."""
    parts: tuple[Part, ...]
    """Fields of its config.json."""
    implied: Mapping[str, object]
    """Keys of `model` that have this value in each of its models."""
    ignored: tuple[str, ...] = ()
    """Name suffixes of buffers that old versions saved, and that are not weights."""
    transposed: bool = False
    """Whether linear layers store their weights as [in, out]."""
    always_biased: tuple[str, ...] = ()
    """Our modules that have a bias there in each model: it is zero where ours has none."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes of a fine-tuned model, in the order of their numbers; None for any other model."""
        return None

    def lacking(self, class_name: str) -> tuple[str, ...]:
        """Name prefixes of our weights that a class of this layout does not have, and that are drawn."""
        return ()

    def class_of(self, config: Any) -> str:
        """The one of these classes that corresponds to a config of ours."""
        return self.classes[0]

    def obstacles(self, config: TextConfig) -> list[str]:
        """Keys of a config of ours that the layout cannot express, as `model.key: value`."""
        model = config.model
        allowed: dict[str, tuple[object, ...]] = {key: (value,) for key, value in self.implied.items()}
        for part in self.parts:
            allowed |= part.allowed
        free = NO_FUNCTION.union(*(part.keys for part in self.parts))
        heads = model.num_attention_heads
        usual = {"num_query_groups": heads, "head_size": model.hidden_size // heads}
        found = []
        for key, field in type(model).model_fields.items():
            value = getattr(model, key)
            default = (field.default, usual.get(key, field.default))
            if value not in allowed.get(key, (value,) if key in free else default):
                found.append(f"model.{key}: {value}")
        return found

    def modules(self, config: Any, sizes: Sizes) -> Iterator[Module]:
        """The modules of our model."""
        raise NotImplementedError

    def family(self, config: Any, layout: ParallelDims) -> ModelSpec[Any, Any]:
        """The model spec that runs our model."""
        raise NotImplementedError

    def logits(
        self, chunk: Any, tokens_BS: Tensor, positions_S: Tensor, types_BS: Tensor, real_BS: Tensor
    ) -> list[Tensor]:
        """Logits of our model.

        Args:
            chunk: the whole model.
            tokens_BS: ids.
            positions_S: where they stand.
            types_BS: segment of each.
            real_BS: which of them count; the others are padding.

        Returns:
            [rows, V] of the tokens, or [B, classes] of texts, and, for a BERT with pairs, [B, 2].
        """
        raise NotImplementedError

    def links(self, config: Any, vocab_size: int) -> Iterator[ParamMapping]:
        """The parameter mapping of every logical tensor, in the order of the model."""
        sizes = Sizes.of(config.model, vocab_size)
        for module in self.modules(config, sizes):
            transposed = self.transposed and module.linear
            yield from mappings(module, self.theirs(module.name), sizes, transposed=transposed)

    def theirs(self, name: str) -> tuple[str, ...]:
        """Their modules for one of ours."""
        found = self.names[name]
        return (found,) if isinstance(found, str) else tuple(found)

    def zeros(self, config: Any) -> Iterator[tuple[str, Shape]]:
        """Biases that the layout has and the config does not, which are zero then."""
        sizes = Sizes.of(config.model, 1)
        for module in self.modules(config, sizes):
            if module.name in self.always_biased and not module.bias:
                only = Module(module.name, module.shape, bias=True, weight=False, layer=module.layer)
                for mapping in mappings(only, self.theirs(module.name), sizes):
                    yield from zip(mapping.names, mapping.shapes, strict=True)

    def copies(self, config: Any) -> Mapping[str, str]:
        """Names of tensors that may be stored a second time, and what they are a copy of."""
        return {}

    def their_config(self, config: Any, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """Arguments of the transformers config class.

        Args:
            vocab_size: ids of the tokenizer, without padding.
            ids: `bos`, `eos` and, for a BERT, `pad`; empty without a tokenizer.
        """
        found: dict[str, Any] = {"vocab_size": vocab_size}
        for part in self.parts:
            found |= part.write(config)
        return found

    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Sections and keys of our config.

        Args:
            theirs: a transformers config.
            names: tensors that come with it.

        Raises:
            UserError: it has an option that ours does not have.
        """
        keys: dict[str, Any] = dict(self.implied)
        for part in self.parts:
            keys |= part.read(theirs)
        tree: dict[str, dict[str, Any]] = {"model": {"kind": self.kind}}
        for key, value in keys.items():
            section, _, last = key.rpartition(".")
            tree.setdefault(section or "model", {})[last] = value
        return tree

    def require_known(self, fields: Mapping[str, Any]) -> None:
        """Refuse a field of a config.json that is not known to leave the numbers as they are.

        Raises UserError, which names the first one.
        """
        import transformers

        known = NOTES.union(*(part.fields for part in self.parts))
        known |= transformers.GenerationConfig._get_default_generation_params().keys()
        for name, value in fields.items():
            if name not in known and value is not None and not name.startswith("_"):
                unknown(name, value)


class Decoder(Architecture):
    """A GPT, whatever it was trained on."""

    kind = "gpt"
    holds = DecoderConfig
    generates = True

    def modules(self, config: DecoderConfig, sizes: Sizes) -> Iterator[Module]:
        return decoder_modules(config, sizes)

    def family(self, config: DecoderConfig, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.gpt.spec import GptSpec

        return GptSpec(config, layout)

    def logits(
        self, chunk: Any, tokens_BS: Tensor, positions_S: Tensor, types_BS: Tensor, real_BS: Tensor
    ) -> list[Tensor]:
        return [chunk(tokens_BS, positions_S.expand_as(tokens_BS), None).flatten(0, 1)]

    def copies(self, config: DecoderConfig) -> Mapping[str, str]:
        """The head's weight is the embedding if they are tied."""
        (head,), (embedding,) = self.theirs("output_layer"), self.theirs("embedding.word_embeddings")
        return {f"{head}.weight": f"{embedding}.weight"} if config.model.tie_embeddings else {}

    def their_config(self, config: DecoderConfig, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """See `Architecture`."""
        special = {"bos_token_id": ids.get("bos"), "eos_token_id": ids.get("eos")}
        return super().their_config(config, vocab_size, ids) | special


def of_real_tokens(logits: Tensor, real_BS: Tensor) -> Tensor:
    """[B, S, V] -> [M, V], positions first; [B, classes], which is of whole texts, unchanged."""
    return logits if logits.dim() == 2 else logits.transpose(0, 1)[real_BS.t()]
