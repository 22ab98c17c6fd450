"""From a checkpoint to a model that scores or generates, in the layout at hand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_tools.typed import names, natural
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.checkpoint.layout import TOKENIZER_FOLDER as TOKENIZER_FOLDER
from pretrain.config.load import read_config, require_kind
from pretrain.config.sections import ChatConfig, Config, CorpusConfig, ParallelConfig, TextConfig
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.optimizer import weight_shard
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.sharding import parameter_shards

C = TypeVar("C", bound=Config)
T = TypeVar("T", bound=TextConfig)
RESOLVED_CONFIG = "config.resolved.yaml"
LABELS = "labels"
"""Key in the checkpoint state of a fine-tuned BERT: its classes, in the order of their numbers."""


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint with the config that made it."""

    checkpoint: Checkpoint
    config: TextConfig
    vocab_size: int


def open_saved_model(
    path: str | Path,
    say: Callable[[str], None] = lambda _: None,
    wanted: tuple[type[TextConfig], ...] = (CorpusConfig, ChatConfig),
) -> SavedModel:
    """Find, verify and open a checkpoint.

    Args:
        path: run folder (its newest good checkpoint) or a step folder.
        say: told of newer checkpoints that were passed over, and why.
        wanted: the kinds of config that are accepted.

    Raises:
        UserError, IntegrityError: there is none, or it is damaged.
    """
    checkpoint, config = open_saved(path, wanted, "this command", say)
    return SavedModel(checkpoint, config, checkpoint.part("vocab_size", natural))


def open_saved(
    path: str | Path,
    wanted: type[C] | tuple[type[C], ...],
    what: str,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Checkpoint, C]:
    """As `open_saved_model`, for any kind of config; `what` is for the message about another one."""
    checkpoint = open_checkpoint(resolve(path, say))
    loaded = read_config(str(checkpoint.path / RESOLVED_CONFIG), saved=True).config
    return checkpoint, require_kind(loaded, wanted, f"{checkpoint.path}: {what}")


def with_layout(config: T, parallel: ParallelConfig) -> T:
    return config.model_copy(update={"parallel": parallel})


def load_model(
    saved: SavedModel, config: TextConfig, layout: ParallelDims, family: ModelSpec[Any, Any]
) -> PipelineModel:
    """Build the model and fill it with the checkpoint's weights.

    Args:
        config: the checkpoint's config with the layout at hand.
        family: the model spec.

    Raises:
        UserError: the checkpoint is of another model.
    """
    model = PipelineModel(config, layout, saved.vocab_size, family, training=False)
    saved.checkpoint.load(weight_shard(part, layout) for part in parameter_shards(model.chunks, layout))
    return model


def saved_labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The classes of a fine-tuned BERT, in the order of their numbers; empty for any other model.

    Raises IntegrityError if they are not names.
    """
    return checkpoint.part(LABELS, names) if LABELS in checkpoint.state else ()
