"""A run that trains a BERT."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.resume import PREDICTED, SAME_RUN, must_agree
from pretrain.config.sections.section import Count, PathText
from pretrain.config.sections.text import Activation, CorpusConfig, TextDataConfig, TextModelConfig


class EncoderModelConfig(TextModelConfig):
    """A bidirectional encoder."""

    activation: Activation = "gelu"
    """Feed-forward activation; the original has gelu."""
    norm_epsilon: float = Field(1e-12, gt=0)
    """Added to the variance in the normalisation."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalisation before each sublayer and at the end (Megatron's), or after each residual (the
    original's)."""


class BertModelConfig(EncoderModelConfig):
    """A BERT: a bidirectional encoder (Devlin et al. 2019)."""

    kind: Literal["bert"]
    """Model family."""
    init_from: Annotated[PathText | None, SAME_RUN] = None
    """Run folder, or one checkpoint of it, of the BERT whose weights the run starts with; what is not given
    here is as in that run. null: weights drawn from `run.seed`."""
    init_embeddings: Literal["pretrained", "random"] = "pretrained"
    """random: what has a row for each token (its embedding, and the output's weight and bias) is drawn from
    `run.seed`, for data of another tokenizer than the weights of `init_from` were made with."""


class BertDataConfig(TextDataConfig):
    """Where tokens come from. A path may stand for a list of one source of weight 1."""

    nsp: Annotated[bool, must_agree("another task has other samples and another head")] = True
    """Samples are pairs of segments of whole sentences, and the model predicts whether the second follows the
    first; false: one segment, and no such loss."""
    mask_probability: Annotated[float, PREDICTED] = Field(0.15, gt=0, lt=1)
    """Share of the tokens to predict: 80 % of them become [MASK], 10 % another token, 10 % stay."""
    masking: Annotated[Literal["token", "whole_word", "span"], PREDICTED] = "token"
    """What is chosen together: one token, the pieces of a word, or a span of words of geometric length
    (Joshi et al. 2020, "SpanBERT")."""
    max_span: Annotated[Count | None, PREDICTED] = None
    """Longest span in words; null: 10. Only with masking: span."""
    short_sequence_probability: Annotated[float | None, must_agree("decides the segments of each sample")] = (
        Field(None, ge=0, le=1)
    )
    """Share of the pairs that are cut to a random shorter length; null: 0.1. Not with `nsp: false`."""


class BertConfig(CorpusConfig):
    """A run that trains a BERT."""

    model: BertModelConfig
    data: BertDataConfig
