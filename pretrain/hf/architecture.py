"""What differs between the layouts that transformers knows: names, shapes and the config.

An architecture is a frozen object without state; `gpt2.py`, `llama.py` and `bert.py` have one kind each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from pretrain.config.sections import DecoderConfig, TextConfig
from pretrain.data.batch import plain_positions
from pretrain.errors import UserError
from pretrain.hf.param_mapping import ParamMapping, Shape
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims

ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Their name of an activation -> ours."""
THEIR_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}


class Architecture(ABC):
    """One layout of weights in transformers."""

    kind: ClassVar[str]
    """Our `model.kind` that it is imported as."""
    holds: ClassVar[type[TextConfig]]
    """Our config class whose weights may have this layout."""
    reads_padding: ClassVar[bool] = False
    """Whether the model is told which tokens are padding, and which segment each belongs to."""
    generates: ClassVar[bool] = False
    """Whether the model continues texts."""
    labels: tuple[str, ...] | None = None
    """The classes of a fine-tuned model, in the order of their numbers; None for any other model."""
    base: ClassVar[str]
    """Name prefix in a model with a head, which is missing if only the base model was saved."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """Name suffixes of buffers that old versions saved, and that are not weights."""

    prefix: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    """After `prefix`, the names in transformers of the classes with this layout."""

    def classes(self) -> tuple[str, ...]:
        return tuple(self.prefix + head for head in self.heads)

    def class_of(self, config: Any) -> str:
        """The one of these classes that corresponds to a config of ours."""
        return self.classes()[0]

    @abstractmethod
    def obstacles(self, config: Any) -> list[str]:
        """Keys of a config of ours that the layout cannot express, as `model.key: value`."""

    @abstractmethod
    def family(self, config: Any, layout: ParallelDims) -> ModelSpec[Any, Any]:
        """The model spec that runs our model."""

    @abstractmethod
    def logits(self, chunk: Any, tokens_BS: Tensor, types_BS: Tensor, real_BS: Tensor) -> list[Tensor]:
        """Logits of our model.

        Args:
            chunk: the whole model.
            tokens_BS: ids.
            types_BS: segment of each.
            real_BS: which of them count; the others are padding.

        Returns:
            [rows, V] of the tokens, or [B, classes] of texts, and, for a BERT with pairs, [B, 2].
        """

    @abstractmethod
    def links(self, config: Any, vocab_size: int) -> Iterator[ParamMapping]:
        """The parameter mapping of every logical tensor, in the order of the model."""

    def zeros(self, config: Any) -> Iterator[tuple[str, Shape]]:
        """Tensors that the layout has and the config does not, which are zero then."""
        yield from ()

    def copies(self, config: Any) -> Mapping[str, str]:
        """Names of tensors that may be stored a second time, and what they are a copy of."""
        return {}

    @abstractmethod
    def their_config(self, config: Any, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """Arguments of the transformers config class.

        Args:
            vocab_size: ids of the tokenizer, without padding.
            ids: `eos` and, for a BERT, `pad`; empty without a tokenizer.
        """

    @abstractmethod
    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Sections and keys of our config.

        Args:
            theirs: a transformers config.
            names: tensors that come with it.

        Raises:
            UserError: it has an option that ours does not have.
        """


class Decoder(Architecture):
    """A GPT, whatever it was trained on."""

    kind = "gpt"
    holds = DecoderConfig
    generates = True

    def family(self, config: DecoderConfig, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.gpt.spec import GptSpec

        return GptSpec(config, layout)

    def logits(self, chunk: Any, tokens_BS: Tensor, types_BS: Tensor, real_BS: Tensor) -> list[Tensor]:
        return [chunk(tokens_BS, plain_positions(*tokens_BS.shape), None).flatten(0, 1)]


def of_real_tokens(logits: Tensor, real_BS: Tensor) -> Tensor:
    """[B, S, V] -> [M, V], positions first; [B, classes], which is of whole texts, unchanged."""
    return logits if logits.dim() == 2 else logits.transpose(0, 1)[real_BS.t()]


def supports(config: Any, value: object, *allowed: object, key: str) -> None:
    """Refuse a value of a transformers config. Raises UserError if it is not in `allowed`."""
    if value not in allowed:
        known = ", ".join(str(each) for each in allowed)
        raise UserError(
            f"{key}: {value!r} in the config.json of a {config.model_type} is not supported; {known} is"
        )


def common_dropout(*values: float) -> float:
    """Our one dropout: theirs if they are all equal, else 0. It matters only to training."""
    return float(values[0]) if len(set(values)) == 1 else 0.0


def activation(theirs: Any, key: str) -> str:
    """Our name for an activation of theirs."""
    value = getattr(theirs, key)
    supports(theirs, value, *ACTIVATIONS, key=key)
    return ACTIVATIONS[value]


def obstacle(config: TextConfig, key: str, *allowed: object) -> list[str]:
    """`model.key: value` if the value is not in `allowed`."""
    value = getattr(config.model, key)
    return [] if value in allowed else [f"model.{key}: {value}"]
