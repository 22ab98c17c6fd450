"""Pretraining a BERT."""

from pretrain.config.sections import BertConfig
from pretrain.corpus_trainer import CorpusTrainer
from pretrain.data.bert.text import BertTrainingData, BertValidationData
from pretrain.families.bert import BertFamily


class BertTrainer(CorpusTrainer[BertConfig]):
    """A trainer on masked sentences."""

    def open_data(self) -> tuple[BertTrainingData, BertValidationData | None]:
        """The shards of the config."""
        return BertTrainingData.from_config(self.corpus), BertValidationData.from_config(self.corpus)

    def family(self) -> BertFamily:
        """An encoder that predicts masked tokens, and whether sentences follow one another."""
        return BertFamily(self.corpus, self.layout)
