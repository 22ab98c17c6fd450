"""What follows from a recurrent model's config, for `pretrain check`."""

from collections.abc import Iterator

from data_tools.counts import counted
from pretrain.config import derived
from pretrain.config.sections import RnnConfig
from pretrain.data.dataset import TrainingDataset
from pretrain.rnn.model import build_rnn


def summary(
    config: RnnConfig, processes: int | None, data: TrainingDataset | None
) -> Iterator[tuple[str, str]]:
    """Rows of (what, value). Without data, the model's size is not known."""
    batch, steps = config.batch, config.run.steps
    tokens = batch.global_size * batch.sequence_length
    if data:
        model = build_rnn(config.model, data.vocab_size, config.run.seed)
        yield "parameters", f"{sum(weight.numel() for weight in model.parameters()):,}"
        yield "vocabulary", f"{data.vocab_size:,} ids"
    yield "tokens", f"{tokens:,} a step, {tokens * steps:,} in {counted(steps, 'step')}"
    if data:
        epochs = steps * batch.global_size / data.samples_per_epoch
        yield "training sequences", f"{data.samples_per_epoch:,}; the run sees them {epochs:.2f} times"
    yield "streams", f"{batch.global_size:,} side by side"
    if processes is not None:
        count = derived.micro_batches(config, processes)
        yield "gradient accumulation", f"micro-batches of {batch.micro_size} a step and process: {count}"
