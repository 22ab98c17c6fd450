"""The trainer that pretrains a GPT."""

from collections.abc import Mapping
from pathlib import Path

from pretrain.config.sections import GptConfig
from pretrain.gpt.chat.template import FILE, template_of
from pretrain.gpt.data import TrainingData, ValidationData, open_data
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.corpus_trainer import CorpusTrainer


class GptTrainer(CorpusTrainer[GptConfig]):
    """A trainer on windows of text."""

    def open_data(self) -> tuple[TrainingData, ValidationData | None]:
        return open_data(self.config)

    def spec(self) -> GptSpec:
        return GptSpec(self.config, self.layout)

    def files(self) -> Mapping[str, bytes | Path]:
        """Also the chat template of the run that it starts from, which goes with that run's tokenizer."""
        same_tokenizer = self.config.model.init_embeddings == "pretrained"
        template = template_of(self.start.checkpoint) if self.start and same_tokenizer else None
        return {**super().files(), **({FILE: template.source.encode()} if template else {})}
