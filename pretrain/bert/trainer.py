"""The trainer that pretrains a BERT."""

from pretrain.bert.data.text import BertTrainingData, BertValidationData, open_data
from pretrain.bert.spec import BertSpec
from pretrain.config.sections import BertConfig
from pretrain.megatron.corpus_trainer import CorpusTrainer


class BertTrainer(CorpusTrainer[BertConfig]):
    """A trainer on masked sentences."""

    def open_data(self) -> tuple[BertTrainingData, BertValidationData | None]:
        return open_data(self.config)

    def spec(self) -> BertSpec:
        return BertSpec(self.config, self.layout)
