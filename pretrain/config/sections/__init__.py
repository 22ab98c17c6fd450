"""Every key of a config file: its type, its default and what it means.

Each class is one section of the YAML file. The docstring under a field is the documentation of its key.
Which sections and keys there are depends on `model.kind`; the record of each
kind (`pretrain.kinds`) says how.
Rules that concern one key stand here; rules between keys stand in `pretrain.config.rules`.
"""

from pretrain.config.sections.bert import BertConfig, BertDataConfig, BertModelConfig, EncoderModelConfig
from pretrain.config.sections.chat import ChatConfig, ChatDataConfig
from pretrain.config.sections.cnn import CnnConfig, CnnModelConfig
from pretrain.config.sections.common import (
    CheckpointConfig,
    Config,
    ModelConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
)
from pretrain.config.sections.descent import DescentConfig, OptimizerConfig, ScheduleConfig
from pretrain.config.sections.finetune import ClassifierConfig, FinetuneConfig, TaggerConfig
from pretrain.config.sections.gan import GanConfig, GanLossConfig
from pretrain.config.sections.gpt import DecoderConfig, DecoderModelConfig, GptConfig
from pretrain.config.sections.rnn import RnnConfig, RnnModelConfig
from pretrain.config.sections.section import LARGEST_COUNT, Section
from pretrain.config.sections.slurm import SlurmConfig
from pretrain.config.sections.source import ImageDataConfig, Source
from pretrain.config.sections.stages import BatchStageConfig, StageConfig
from pretrain.config.sections.text import (
    BatchConfig,
    CorpusConfig,
    ParallelConfig,
    TextConfig,
    TextEvalConfig,
    TextModelConfig,
)

TokenConfig = CorpusConfig | RnnConfig
"""What reads token shards."""
