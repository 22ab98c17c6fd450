"""The trainer that pretrains a GPT."""

from pretrain.config.sections import GptConfig
from pretrain.gpt.data import TrainingData, ValidationData
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.corpus_trainer import CorpusTrainer


class GptTrainer(CorpusTrainer[GptConfig]):
    """A trainer on windows of text."""

    def open_data(self) -> tuple[TrainingData, ValidationData | None]:
        return TrainingData.from_config(self.corpus), ValidationData.from_config(self.corpus)

    def family(self) -> GptSpec:
        return GptSpec(self.corpus, self.layout)
