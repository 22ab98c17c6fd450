"""`pretrain check`: everything that is wrong with a config at once, or what follows from it.

Rules between keys are judged first, then the shards are opened, by the code that training uses.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pretrain.config import derived
from pretrain.config.load import LoadedConfig, load_config
from pretrain.config.node import ConfigError, Problem
from pretrain.config.resolved import resolved_values
from pretrain.config.schema import show as as_yaml
from pretrain.config.sections import Config
from pretrain.errors import IntegrityError, UserError

if TYPE_CHECKING:
    from pretrain.data.text import TrainingData


def check_command(
    path: str, overrides: Sequence[str], processes: int | None, *, show: bool, data: bool
) -> None:
    """Print what follows from a config.

    Raises UserError (exit code 2) with every problem, IntegrityError (3) if only shards are damaged.
    """
    loaded = load_config(path, overrides, processes)
    training = check_data(loaded) if data else None
    console = Console(soft_wrap=True)
    if show:
        console.print(_key_table(loaded))
    console.print(_summary_table(loaded.config, processes, training))
    console.print(f"{path}: no problem found" + ("" if data else "; the data was not looked at"))


def check_data(loaded: LoadedConfig) -> "TrainingData":
    """Open all data that a config names; problems of several sources are reported together."""
    from pretrain.data.sources import open_training
    from pretrain.data.text import TrainingData, ValidationData

    config = loaded.config
    problems: list[tuple[str, UserError]] = []
    for source in config.data.train:
        alone = config.data.model_copy(update={"train": (source,)})
        try:
            open_training(config.model_copy(update={"data": alone}))
        except UserError as error:
            problems.append(("data.train", error))
    for source in config.data.validation or ():
        _open_alone(source.path, problems)
    if not problems:
        try:
            training = TrainingData.from_config(config)
            ValidationData.from_config(config)
            return training
        except UserError as error:
            problems.append(("data", error))
    raise _together(loaded, problems)


def _open_alone(path: str, problems: list[tuple[str, UserError]]) -> None:
    from data_tools.reader import ShardReader

    try:
        ShardReader(path)
    except UserError as error:
        problems.append(("data.validation", error))


def _together(loaded: LoadedConfig, problems: Sequence[tuple[str, UserError]]) -> UserError:
    first = loaded.sources["data.train"]
    joined = ConfigError(
        [Problem(loaded.sources.get(key, first), key, str(error)) for key, error in problems]
    )
    damaged = all(isinstance(error, IntegrityError) for _, error in problems)
    return IntegrityError(str(joined)) if damaged else joined


def _key_table(loaded: LoadedConfig) -> Table:
    table = Table("key", "value", "source", title=loaded.path, title_justify="left")
    for key, value, place in resolved_values(loaded):
        style = "dim" if place.layer == "default" else None
        table.add_row(key, as_yaml(value), str(place), style=style)
    return table


def _summary_table(config: Config, processes: int | None, training: "TrainingData | None") -> Table:
    table = Table(show_header=False, box=None)
    for name, value in _summary(config, processes, training):
        table.add_row(name, value)
    return table


def _summary(
    config: Config, processes: int | None, training: "TrainingData | None"
) -> Iterator[tuple[str, str]]:
    batch, steps = config.batch, config.run.steps
    tokens = batch.global_size * batch.sequence_length
    if training is None:
        parameters = derived.count_parameters(config.model, 0, batch.sequence_length)
        yield "parameters", f"{parameters.total:,} and those of the vocabulary"
    else:
        vocab = training.vocab_size
        padded = derived.padded_vocab_size(vocab, config.model.vocab_multiple)
        parameters = derived.count_parameters(config.model, vocab, batch.sequence_length)
        yield "parameters", f"{parameters.total:,} ({parameters.layers:,} in layers)"
        yield "vocabulary", f"{vocab:,} ids, padded to {padded:,} rows"
    yield "feed-forward width", f"{derived.ffn_hidden_size(config.model):,}"
    yield "schedule", _schedule(config)
    yield "tokens", f"{tokens:,} a step, {tokens * steps:,} in {steps:,} steps"
    if training is not None:
        samples = training.samples_per_epoch
        yield (
            "training samples",
            f"{samples:,}; the run sees them {steps * batch.global_size / samples:.2f} times",
        )
    yield from _layout(config, processes)


def _schedule(config: Config) -> str:
    schedule = config.schedule
    warmup = f"{schedule.warmup_steps:,} steps of warm-up to {config.optimizer.lr:g}"
    if schedule.kind == "constant":
        return f"{warmup}, then constant"
    over = "over the last" if schedule.kind == "wsd" else "until step"
    return f"{warmup}, {schedule.kind} to {derived.min_lr(config):g} {over} {derived.decay_steps(config):,}"


def _layout(config: Config, processes: int | None) -> Iterator[tuple[str, str]]:
    ranks = derived.model_ranks(config.parallel)
    if processes is None:
        yield (
            "one replica",
            f"{ranks} process{'es' if ranks > 1 else ''}; data parallel size follows from --processes",
        )
        return
    replicas = derived.data_parallel_size(config, processes) or 1
    accumulation = derived.micro_batches(config, replicas)
    yield "data parallel size", f"{replicas} = {processes} processes / {ranks} of one replica"
    yield (
        "gradient accumulation",
        f"{accumulation} micro-batches of {config.batch.micro_size} a step and replica",
    )
