"""The data of a config, whatever its `model.kind`."""

from pretrain.config.sections import BertConfig, GptConfig, RnnConfig, TokenConfig
from pretrain.data.bert.text import BertTrainingData, BertValidationData
from pretrain.data.feed import TrainingFeed, ValidationFeed
from pretrain.data.streams import LaneData, StreamData
from pretrain.data.text import TrainingData, ValidationData


def open_data(config: TokenConfig) -> tuple[TrainingFeed, ValidationFeed | None]:
    """Training samples, and what is validated on if there is anything.

    Raises UserError, IntegrityError: the shards are not there, damaged or of no use; names the path.
    """
    if isinstance(config, BertConfig):
        return BertTrainingData.from_config(config), BertValidationData.from_config(config)
    if isinstance(config, GptConfig):
        return TrainingData.from_config(config), ValidationData.from_config(config)
    if isinstance(config, RnnConfig):
        return StreamData.from_config(config), LaneData.from_config(config)
    raise TypeError(type(config).__name__)
