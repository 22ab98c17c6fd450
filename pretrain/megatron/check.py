"""What follows from a transformer's config, for `pretrain check`. No torch: only its data need that."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_tools.counts import counted
from pretrain.config import derived
from pretrain.config.sections import TextConfig
from pretrain.config.stages import stages, steps_until, tokens_until

if TYPE_CHECKING:
    from pretrain.data.dataset import TrainingDataset


def summary(
    config: TextConfig, processes: int | None, training: "TrainingDataset | None"
) -> Iterator[tuple[str, str]]:
    """Rows of (what, value). Without data, the size of the vocabulary is not known."""
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
    if (decay := config.corpus_schedule.decay_tokens) is not None:
        warmup = config.corpus_schedule.warmup_tokens or 0
        return (
            f"{counted(warmup, 'token')} of warm-up to {config.optimizer.lr:g}, "
            f"{schedule.kind} to {derived.min_lr(config):g} until {counted(decay, 'token')}, "
            "reached after step "
            f"{steps_until(config, decay):,}"
        )
    start = f"{counted(schedule.warmup_steps, 'step')} of warm-up to {config.optimizer.lr:g}"
    if schedule.kind == "constant":
        return f"{start}, then constant"
    over = "over the last" if schedule.kind == "wsd" else "until step"
    return f"{start}, {schedule.kind} to {derived.min_lr(config):g} {over} {derived.decay_steps(config):,}"
