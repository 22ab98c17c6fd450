"""`pretrain train --dry-run`: the whole job at its full size, in one process and without a GPU.

What would stop the job in its first seconds on a cluster stops it here: a wrong key, data that is not there,
a layout that a model can not be built in, a schedule that does not run. Every number that is not a shape is
missing, so what depends on numbers is left to the job.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Config, CorpusConfig, TextConfig
from pretrain.errors import UserError
from pretrain.folder import RunFolder


def dry_run_command(path: str, overrides: Sequence[str], processes: int | None) -> None:
    """Print what was tried, and "this would run".

    Args:
        path: config file.
        overrides: `section.key=value` texts.
        processes: ranks of the whole job; None: nodes x GPUs of the `slurm` section, or one.

    Raises:
        UserError: the first reason why it would not run.
    """
    # Before torch is imported: what runs here runs on fake tensors.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    size = processes or _job_size(load_config(path, overrides).config)
    loaded = load_config(path, overrides, size)
    config = loaded.config
    print(f"config: no problem found for {size} processes")
    if not isinstance(config, CorpusConfig):
        raise UserError(f"model.kind: a dry run is made for gpt and bert, got {config.model.kind}")
    from pretrain import cpu_backend
    from pretrain.check import check_data

    cpu_backend.require_tested_megatron()  # imported first, it keeps megatron-core from loading a compiler
    vocabulary = check_data(loaded).vocab_size
    print(f"data: opened, {vocabulary:,} ids")
    _require_writable(Path(config.run.dir))
    changes = RunFolder(config.run.dir).require_fit(config_to_yaml(config), config.run.resume)
    there = "goes on with the run in it" if RunFolder(config.run.dir).is_run else "is new"
    print(f"run.dir: {config.run.dir} {there}" + (f", with other {', '.join(changes)}" if changes else ""))
    count = _build_every_rank(config, vocabulary, size)
    print(f"model: built for {count} of {size} ranks; the others have the same shapes")
    for stage in _distinct_stages(config):
        _rehearse(config, vocabulary, stage)
        print(f"schedule: one step of stage {stage}, forward and backward")
    print("this would run")


def _job_size(config: Config) -> int:
    slurm = config.slurm
    return slurm.nodes * slurm.gpus_per_node if slurm.nodes and slurm.gpus_per_node else 1


def _require_writable(folder: Path) -> None:
    """The nearest folder that exists must take new files."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"run.dir: {folder} can not be made: {there} is no folder that takes new files")


def _build_every_rank(config: TextConfig, vocabulary: int, size: int) -> int:
    """Build model and optimizer of the first rank of each pipeline stage, in the world of all ranks.

    The others of a stage have the same shapes: other parts of the same tensors, or other samples.

    Returns:
        Ranks that stand for all.
    """
    from pretrain.plan.states import rank_states

    pipeline = config.parallel.pipeline
    for stage in range(pipeline):
        rank_states(config, vocabulary, stage * size // pipeline, size)
    return pipeline


def _distinct_stages(config: TextConfig) -> list[int]:
    """The first, one in the middle and the last: those between are alike."""
    last = config.parallel.pipeline - 1
    return sorted({0, min(1, last), last})


def _rehearse(config: TextConfig, vocabulary: int, stage: int) -> None:
    """One step of a stage's schedule: with one layer in each chunk and two chunks at most, since more are
    alike, and as many micro-batches as there are stages."""
    from pretrain.layout import build_layout
    from pretrain.model import Model
    from pretrain.plan.fake_world import Kind, fake_world
    from pretrain.plan.samples import local_micro_batch
    from pretrain.plan.trace import shallow

    config = shallow(config, 1, config.parallel.virtual_pipeline and 2)
    size, pipeline = config.replica_ranks, config.parallel.pipeline
    with fake_world(stage * size // pipeline, size, Kind.fake) as world:
        model = Model(config, build_layout(world, config.parallel), vocabulary, training=True)
        model.rehearse([local_micro_batch(model)] * pipeline)
