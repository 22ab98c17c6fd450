"""The trainer that pretrains a GPT."""

from pretrain.config.sections import GptConfig
from pretrain.gpt.data import TrainingData, ValidationData, open_data
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.corpus_trainer import CorpusTrainer


class GptTrainer(CorpusTrainer[GptConfig]):
    """A trainer on windows of text."""

    def open_data(self) -> tuple[TrainingData, ValidationData | None]:
        return open_data(self.config)

    def spec(self) -> GptSpec:
        return GptSpec(self.config, self.layout)
