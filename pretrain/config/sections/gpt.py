"""A run that trains a GPT."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.resume import SAME_RUN, must_agree
from pretrain.config.sections.section import Count, PathText, Texts, Width
from pretrain.config.sections.text import CorpusConfig, TextConfig, TextDataConfig, TextModelConfig


class DecoderModelConfig(TextModelConfig):
    """A GPT: a decoder-only transformer (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners"), with the options of its successors."""

    tie_embeddings: bool = True
    """The output head shares the token embedding's weight."""
    scale_embeddings: bool = False
    """Token embeddings are multiplied by sqrt(hidden_size) as they enter the first layer (Gemma)."""
    head_size: Width | None = None
    """Width of one attention head; null: `hidden_size` / `num_attention_heads`."""
    qkv_bias: bool = False
    """Biases of the query, key and value projections alone (Qwen 2). Only with `bias: false`."""
    qk_norm: Literal["head", "whole"] | None = None
    """Normalisation of queries and keys, before rotary positions. head: of each head by itself, with one
    weight for all heads (Qwen 3). whole: of all heads together (OLMo 2). null: none."""
    norm_position: Literal["pre", "output", "both"] = "pre"
    """Normalisation of what each sublayer reads (pre), of what it adds to the residual stream (output, as in
    OLMo 2), or of both (Gemma 2). There is one at the end in any case."""
    zero_centered_norm: bool = False
    """Norms multiply by 1 + weight, and weights begin at 0 (Gemma). Only with normalization: rmsnorm."""
    rotary_fraction: float | None = Field(None, gt=0, lt=1)
    """Share of each head, from its front, that rotary positions turn; null: all of it."""
    rotary_scaling: Literal["linear", "llama3", "yarn"] | None = None
    """How rotary frequencies are slowed down for texts longer than the model was first trained on. linear:
    all alike (Chen et al. 2023). llama3: slow ones only (Llama 3.1). yarn: slow ones only, and attention is
    sharpened (Peng et al. 2023). null: not at all."""
    rotary_scaling_factor: float | None = Field(None, gt=1)
    """What `rotary_scaling` divides frequencies by."""
    rotary_original_length: Count | None = None
    """Tokens of a text that the model was first trained on; with rotary_scaling llama3 and yarn."""
    rotary_slow_turns: float | None = Field(None, gt=0)
    """Frequencies that turn at most this often within `rotary_original_length` are divided by the whole
    factor; null: 1. Only with rotary_scaling llama3 and yarn."""
    rotary_fast_turns: float | None = Field(None, gt=0)
    """Frequencies that turn at least this often stay as they are, and those between are blended; null: 4 with
    llama3, 32 with yarn."""
    rotary_attention_factor: float | None = Field(None, gt=0)
    """What yarn multiplies turned queries and keys by; null: 0.1 ln(factor) + 1."""
    window: Count | None = None
    """Tokens that a token attends to, itself and those just before it, in layers with a window (Beltagy et
    al. 2020); null: all before it."""
    window_pattern: Annotated[tuple[Literal["window", "full"], ...], Texts, Field(min_length=1)] | None = None
    """Which layers have the window, from the first layer on, repeated over the layers; null: all of them."""
    attention_scale: float | None = Field(None, gt=0)
    """Factor of attention scores; null: 1 / sqrt(head size)."""
    attention_softcap: float | None = Field(None, gt=0)
    """Attention scores x become c tanh(x / c) (Gemma 2); null: they stay as they are."""
    logit_softcap: float | None = Field(None, gt=0)
    """Logits x of the vocabulary become c tanh(x / c) (Gemma 2); null: they stay as they are."""
    z_loss: Annotated[float | None, must_agree("changes what is minimised")] = Field(None, gt=0)
    """Weight of the square of the logarithm of the softmax's denominator in what training minimises
    (Chowdhery et al. 2022, "PaLM"); the losses that are reported are without it. null: 0."""


class GptModelConfig(DecoderModelConfig):
    """A GPT: a decoder-only transformer (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners"), with the options of its successors."""

    kind: Literal["gpt"]
    """Model family."""
    init_from: Annotated[PathText | None, SAME_RUN] = None
    """Run folder, or one checkpoint of it, of the GPT whose weights the run starts with; what is not given
    here is as in that run. null: weights drawn from `run.seed`."""
    init_embeddings: Literal["pretrained", "random"] = "pretrained"
    """random: what has a row for each token (its embedding, and the output's weight and bias) is drawn from
    `run.seed`, for data of another tokenizer than the weights of `init_from` were made with."""


class GptDataConfig(TextDataConfig):
    """Where tokens come from. A path may stand for a list of one source of weight 1."""

    reset_at_document_end: Annotated[bool, must_agree("changes what attention sees")] = False
    """Attention does not cross document ends, and positions start again at each document."""


class DecoderConfig(TextConfig):
    """A run whose model is a GPT, whatever it is trained on."""

    model: DecoderModelConfig


class GptConfig(CorpusConfig, DecoderConfig):
    """A run that trains a GPT."""

    model: GptModelConfig
    data: GptDataConfig

    @property
    def resets_at_document_end(self) -> bool:
        """With `data.reset_at_document_end`."""
        return self.data.reset_at_document_end
