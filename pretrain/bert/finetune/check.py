"""What follows from a config that fine-tunes a BERT, for `pretrain check`."""

from collections.abc import Iterator

from data_tools.counts import counted
from pretrain.bert.finetune.data.data import LabelledTraining, open_examples
from pretrain.checkpoint.tokenizer import tokenizer_folder
from pretrain.config import derived
from pretrain.config.load import LoadedConfig
from pretrain.config.sections import FinetuneConfig
from pretrain.megatron.init_from import find_init_from, require_init_from
from pretrain.run.exit import print_error


def check_examples(loaded: LoadedConfig, config: FinetuneConfig, processes: int | None) -> LabelledTraining:
    """Open the files that a config names, with the tokenizer of the run that the weights come from, or of the
    run itself.

    Raises:
        UserError: a file, a column or a label is wrong, or the run that the weights come from does not exist.
        IntegrityError: that run has no good checkpoint.
    """
    start = require_init_from(find_init_from(config, print_error))
    training, _ = open_examples(config, tokenizer_folder(start.checkpoint))
    return training


def summary(
    config: FinetuneConfig, processes: int | None, training: LabelledTraining | None
) -> Iterator[tuple[str, str]]:
    size, steps = config.batch.global_size, config.run.steps
    yield "examples", f"{size:,} a step, {size * steps:,} in {counted(steps, 'step')}"
    if training:
        examples = training.samples_per_epoch
        yield "training examples", f"{examples:,}; the run sees them {size * steps / examples:.2f} times"
        yield "classes", ", ".join(training.data.labels.names)
    if processes is not None:
        replicas = derived.data_parallel_size(config, processes) or 1
        yield (
            "data parallel size",
            f"{replicas} = {counted(processes, 'process')} / {config.replica_ranks} of one replica",
        )
        count = derived.micro_batches(config, replicas)
        yield (
            "gradient accumulation",
            f"micro-batches of {config.batch.micro_size} a step and replica: {count}",
        )


def contents(training: LabelledTraining) -> str:
    """What was opened, in a few words."""
    return (
        f"{counted(training.samples_per_epoch, 'example')} of {counted(len(training.data.labels), 'class')}"
    )
