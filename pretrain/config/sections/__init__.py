"""Every key of a config file: its type, its default and what it means.

Each class is one section of the YAML file. The docstring under a field is the documentation of its key.
Which sections and keys there are depends on `model.kind`; the record of each
kind (`pretrain.kinds`) says how.
Rules that concern one key stand here; rules between keys stand in `pretrain.config.rules`.
"""

from pretrain.config.sections.bert import BertConfig, BertDataConfig, BertModelConfig, EncoderModelConfig
from pretrain.config.sections.chat import ChatConfig, ChatDataConfig, ChatModelConfig
from pretrain.config.sections.cnn import CnnBatchConfig, CnnConfig, CnnDataConfig, CnnModelConfig
from pretrain.config.sections.common import (
    CheckpointConfig,
    Config,
    EvalConfig,
    HealthConfig,
    ModelConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
)
from pretrain.config.sections.descent import DescentConfig, LossHealthConfig, OptimizerConfig, ScheduleConfig
from pretrain.config.sections.finetune import (
    ClassifierConfig,
    ClassifierDataConfig,
    FinetuneConfig,
    FinetuneModelConfig,
    LabelledDataConfig,
    TaggerConfig,
    TaggerDataConfig,
)
from pretrain.config.sections.gan import (
    GanBatchConfig,
    GanConfig,
    GanEvalConfig,
    GanHealthConfig,
    GanLossConfig,
    GanModelConfig,
    GanOptimizerConfig,
    GanParallelConfig,
)
from pretrain.config.sections.gpt import (
    DecoderConfig,
    DecoderModelConfig,
    GptConfig,
    GptDataConfig,
    GptModelConfig,
)
from pretrain.config.sections.rnn import RnnBatchConfig, RnnConfig, RnnModelConfig
from pretrain.config.sections.section import LARGEST_COUNT, Section
from pretrain.config.sections.slurm import SlurmConfig
from pretrain.config.sections.source import ImageDataConfig, Source
from pretrain.config.sections.stages import BatchStageConfig, CorpusScheduleConfig, StageConfig
from pretrain.config.sections.text import (
    BatchConfig,
    CorpusConfig,
    ParallelConfig,
    TextConfig,
    TextDataConfig,
    TextEvalConfig,
    TextModelConfig,
)

TokenConfig = CorpusConfig | RnnConfig
"""What reads token shards."""

__all__ = [
    "LARGEST_COUNT",
    "BatchConfig",
    "BatchStageConfig",
    "BertConfig",
    "BertDataConfig",
    "BertModelConfig",
    "ChatConfig",
    "ChatDataConfig",
    "ChatModelConfig",
    "CheckpointConfig",
    "ClassifierConfig",
    "ClassifierDataConfig",
    "CnnBatchConfig",
    "CnnConfig",
    "CnnDataConfig",
    "CnnModelConfig",
    "Config",
    "CorpusConfig",
    "CorpusScheduleConfig",
    "DecoderConfig",
    "DecoderModelConfig",
    "DescentConfig",
    "EncoderModelConfig",
    "EvalConfig",
    "FinetuneConfig",
    "FinetuneModelConfig",
    "GanBatchConfig",
    "GanConfig",
    "GanEvalConfig",
    "GanHealthConfig",
    "GanLossConfig",
    "GanModelConfig",
    "GanOptimizerConfig",
    "GanParallelConfig",
    "GptConfig",
    "GptDataConfig",
    "GptModelConfig",
    "HealthConfig",
    "ImageDataConfig",
    "LabelledDataConfig",
    "LossHealthConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RnnBatchConfig",
    "RnnConfig",
    "RnnModelConfig",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "SlurmConfig",
    "Source",
    "StageConfig",
    "TaggerConfig",
    "TaggerDataConfig",
    "TextConfig",
    "TextDataConfig",
    "TextEvalConfig",
    "TextModelConfig",
    "TokenConfig",
    "TrackingConfig",
    "TrainConfig",
]
