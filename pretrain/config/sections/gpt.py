"""A run that trains a GPT."""

from typing import Annotated, Literal

from pretrain.config.sections.resume import SAME_RUN, must_agree
from pretrain.config.sections.section import PathText
from pretrain.config.sections.text import CorpusConfig, TextConfig, TextDataConfig, TextModelConfig


class DecoderModelConfig(TextModelConfig):
    """A GPT: a decoder-only transformer (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners"), with the options of its successors."""

    tie_embeddings: bool = True
    """The output head shares the token embedding's weight."""


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
