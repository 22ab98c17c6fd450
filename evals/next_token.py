"""The task of a GPT: every token of a text from those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from data_tools.sources import absolute
from data_tools.tokenizer import Tokenizer
from evals.perplexity import DEFINITIONS, perplexities, standard_error
from evals.text import TextSize, text_size
from pretrain.agree import first_decides
from pretrain.config.sections import GptConfig
from pretrain.data.sources import TokenRange
from pretrain.data.text import ValidationData
from pretrain.families.gpt import GptTotals
from pretrain.families.totals import Totals
from pretrain.layout import Layout
from pretrain.model import Model


@dataclass(frozen=True)
class NextToken:
    """Windows over the sources, as in the trainer's validation."""

    NAME: ClassVar[str] = "perplexity"
    DEFINITIONS: ClassVar[Mapping[str, str]] = DEFINITIONS
    data: ValidationData
    tokenizer: Tokenizer

    @classmethod
    def over(
        cls, sources: tuple[TokenRange, ...], config: GptConfig, tokenizer: Tokenizer, stride: int | None
    ) -> "NextToken":
        """Windows `stride` tokens apart; None: a whole sequence."""
        return cls(ValidationData.over(sources, config, stride), tokenizer)

    def family(self, layout: Layout) -> None:
        """As `model.kind` is pretrained."""

    def metrics(self, totals: Totals, model: Model) -> dict[str, float]:
        assert isinstance(totals, GptTotals), "its family says so"
        if totals.tokens != self.data.tokens:
            raise RuntimeError(f"scored {totals.tokens} labels of {self.data.tokens}")
        size = TextSize(*first_decides(model.layout.world, self._size))
        error = standard_error(totals.nll, totals.squares, self.data.tokens)
        return {**perplexities(totals.nll, self.data.tokens, size), "validation_loss_error": error}

    def _size(self) -> Sequence[int]:
        ranges = [
            (source.reader, start, stop)
            for source, (start, stop) in zip(self.data.sources, self.data.scored, strict=True)
        ]
        return astuple(text_size(ranges, self.tokenizer))

    def spec(self) -> dict[str, Any]:
        """Ranges of tokens, and how windows are laid over them."""
        data = self.data
        return {
            "data": [
                {"path": absolute(source.path), **source.describe(), "scored": list(labels)}
                for source, labels in zip(data.sources, data.scored, strict=True)
            ],
            "stride": data.windows_of[0].stride,
            "windows": data.samples,
            "reset_at_document_end": data.reset_at_document_end,
        }
