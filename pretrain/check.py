"""`pretrain check`: everything that is wrong with a config at once, or what follows from it.

Rules between keys are judged first, then the shards are opened, by the code that training uses.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from data_tools.counts import counted
from pretrain.config import derived
from pretrain.config.load import LoadedConfig, load_config
from pretrain.config.narrow import narrow
from pretrain.config.node import ConfigError, Problem
from pretrain.config.resolved import config_to_yaml, resolved_values
from pretrain.config.schema import show as as_yaml
from pretrain.config.sections import (
    BertConfig,
    ChatConfig,
    CnnConfig,
    CorpusConfig,
    FinetuneConfig,
    GanConfig,
    GptConfig,
    RnnConfig,
    TextConfig,
    TokenConfig,
)
from pretrain.config.stages import stages, steps_until, tokens_until
from pretrain.config.unreached import unreached
from pretrain.errors import IntegrityError, UserError
from pretrain.folder import RunFolder
from pretrain.tracking.record import unfit

if TYPE_CHECKING:
    from pretrain.data.feed import TrainingFeed


def check_command(
    path: str, overrides: Sequence[str], processes: int | None, *, show: bool, data: bool
) -> None:
    """Print what follows from a config.

    Raises UserError (exit code 2) with every problem, IntegrityError (3) if only shards are damaged.
    """
    loaded = load_config(path, overrides, processes)
    config = loaded.config
    require_fit(loaded)
    if isinstance(config, GanConfig):
        from pretrain.gan.check import check_images, summary

        rows = list(summary(config, processes, check_images(loaded, config, processes) if data else None))
    elif isinstance(config, CnnConfig):
        from pretrain.cnn_check import check_images as check_labelled_images
        from pretrain.cnn_check import summary as summary_of_cnn

        labelled = check_labelled_images(loaded, config) if data else None
        rows = list(summary_of_cnn(config, processes, labelled))
    elif isinstance(config, FinetuneConfig):
        from pretrain.finetune_check import check_examples
        from pretrain.finetune_check import summary as summary_of_finetuning

        rows = list(summary_of_finetuning(config, processes, check_examples(config) if data else None))
    elif isinstance(config, RnnConfig):
        from pretrain.rnn.check import summary as summary_of_rnn

        rows = list(summary_of_rnn(config, processes, check_data(loaded) if data else None))
    else:
        wanted: tuple[type[TextConfig], ...] = CorpusConfig, ChatConfig
        training = check_data(loaded) if data else None
        rows = list(_summary(narrow(config, wanted, "this check"), processes, training))
    if show:
        _print_columns([(key, as_yaml(value), str(place)) for key, value, place in resolved_values(loaded)])
        print()
    _print_columns(rows)
    for key, text in unreached(config):
        print(f"note: {key}: {text}")
    for text in RunFolder(config.run.dir).misfits(config_to_yaml(config)):
        print(f"note: run.dir: {config.run.dir} holds another run, training would be refused: {text}")
    print(f"{path}: no problem found" + ("" if data else "; the data was not looked at"))


def require_fit(loaded: LoadedConfig) -> None:
    """Refuse a run folder that MLflow cannot keep the run in. Raises ConfigError."""
    tracking = loaded.config.tracking
    reason = unfit(RunFolder(loaded.config.run.dir), tracking.uri) if tracking.enabled else None
    if reason:
        raise ConfigError([Problem(loaded.sources["run.dir"], "run.dir", reason)])


def check_data(loaded: LoadedConfig, *, anew: bool = False) -> "TrainingFeed":
    """Open all data that a config names; problems of several sources are reported together.

    With `anew` a run starts from step 0, whatever is in `run.dir`.

    Raises ConfigError with every problem, or IntegrityError where each of them is damage.
    """
    from data_tools.reader import ShardReader
    from pretrain.data.cache import shard_cache
    from pretrain.data.kinds import open_data
    from pretrain.data.sources import open_training
    from pretrain.init_from import find_start, require_start, require_tokenizer

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if isinstance(loaded.config, ChatConfig):
        from pretrain.chat.open import open_chat

        return open_chat(loaded.config, require_start(find_start(loaded.config, say))).training
    config: TokenConfig
    if isinstance(loaded.config, RnnConfig):
        config = loaded.config
    else:
        config = narrow(loaded.config, CorpusConfig, "this check")
    problems: list[tuple[str, UserError]] = []
    for source in config.data.train:
        alone = config.data.model_copy(update={"train": (source,)})
        try:
            open_training(config.model_copy(update={"data": alone}))
        except UserError as error:
            problems.append(("data.train", error))
    for source in config.data.validation or ():
        try:
            ShardReader(source.path, shard_cache(config.data))
        except UserError as error:
            problems.append(("data.validation", error))
    if not problems:
        try:
            training, _ = open_data(config)
            fingerprint = training.tokenizer.fingerprint  # every checkpoint takes it along
        except UserError as error:
            problems.append(("data", error))
    if not problems:
        try:
            if isinstance(config, GptConfig | BertConfig) and (start := find_start(config, say, anew=anew)):
                require_tokenizer(config, start, fingerprint)
            return training
        except UserError as error:
            problems.append(("model.init_from", error))
    raise _together(loaded, problems)


def _together(loaded: LoadedConfig, problems: Sequence[tuple[str, UserError]]) -> UserError:
    first = loaded.sources["data.train"]
    joined = ConfigError(
        [
            Problem(loaded.sources.get(key, first), key, str(error).removeprefix(f"{key}: "))
            for key, error in problems
        ]
    )
    damaged = all(isinstance(error, IntegrityError) for _, error in problems)
    return IntegrityError(str(joined)) if damaged else joined


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned plain text: it is read, searched and piped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _summary(
    config: TextConfig, processes: int | None, training: "TrainingFeed | None"
) -> Iterator[tuple[str, str]]:
    batch, steps = config.batch, config.run.steps
    vocab = training.vocab_size if training else 0
    parameters = derived.count_parameters(config, vocab)
    if training:
        padded = derived.padded_vocab_size(vocab, config.model.vocab_multiple)
        yield "parameters", f"{parameters.total:,} ({parameters.layers:,} in layers)"
        yield "vocabulary", f"{vocab:,} ids, padded to {padded:,} rows"
    else:
        yield "parameters", f"{parameters.total:,} and those of the vocabulary"
    yield "feed-forward width", f"{derived.ffn_hidden_size(config.model):,}"
    yield "schedule", _schedule(config)
    for stage in stages(config)[:-1]:
        size = f"{stage.batch.global_size} x {counted(stage.batch.sequence_length, 'token')}"
        yield f"up to step {stage.stop}", f"{size} a step, in micro-batches of {stage.batch.micro_size}"
    tokens, all_tokens = batch.global_size * batch.sequence_length, tokens_until(config, steps)
    yield "tokens", f"{tokens:,} a step, {all_tokens:,} in {counted(steps, 'step')}"
    if training:
        samples = training.samples_per_epoch
        epochs = all_tokens / (samples * batch.sequence_length)
        yield "training samples", f"{samples:,}; the run sees them {epochs:.2f} times"
    ranks = config.replica_ranks
    if processes is None:
        yield "one replica", f"processes: {ranks}; the data parallel size follows from --processes"
        return
    replicas = derived.data_parallel_size(config, processes) or 1
    yield "data parallel size", f"{replicas} = {counted(processes, 'process')} / {ranks} of one replica"
    count = derived.micro_batches(config, replicas)
    yield "gradient accumulation", f"micro-batches of {batch.micro_size} a step and replica: {count}"


def _schedule(config: TextConfig) -> str:
    schedule = config.schedule
    if isinstance(config, CorpusConfig) and (decay := config.schedule.decay_tokens) is not None:
        return (
            f"{counted(config.schedule.warmup_tokens or 0, 'token')} of warm-up to {config.optimizer.lr:g}, "
            f"{schedule.kind} to {derived.min_lr(config):g} until {counted(decay, 'token')}, "
            "reached after step "
            f"{steps_until(config, decay):,}"
        )
    warmup = f"{counted(schedule.warmup_steps, 'step')} of warm-up to {config.optimizer.lr:g}"
    if schedule.kind == "constant":
        return f"{warmup}, then constant"
    over = "over the last" if schedule.kind == "wsd" else "until step"
    return f"{warmup}, {schedule.kind} to {derived.min_lr(config):g} {over} {derived.decay_steps(config):,}"
