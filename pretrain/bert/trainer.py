"""Pretraining a BERT."""

from pretrain.bert.data.text import BertTrainingData, BertValidationData
from pretrain.bert.spec import BertSpec
from pretrain.config.sections import BertConfig
from pretrain.megatron.corpus_trainer import CorpusTrainer


class BertTrainer(CorpusTrainer[BertConfig]):
    """A trainer on masked sentences."""

    def open_data(self) -> tuple[BertTrainingData, BertValidationData | None]:
        """The shards of the config."""
        return BertTrainingData.from_config(self.corpus), BertValidationData.from_config(self.corpus)

    def family(self) -> BertSpec:
        """An encoder that predicts masked tokens, and whether sentences follow one another."""
        return BertSpec(self.corpus, self.layout)
