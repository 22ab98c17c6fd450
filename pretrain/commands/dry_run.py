"""`pretrain train --dry-run`: a rehearsal of the whole job at its full size, in one process, without a GPU.

What would stop the job in its first seconds on a cluster stops it here: a wrong key, data that does not
exist, a layout in which the model cannot be built, a step that does not run.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data_tools.counts import counted
from pretrain.config.inherit import goes_on
from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.errors import UserError
from pretrain.kinds import kind_of
from pretrain.run.folder import RunFolder


def dry_run_command(path: str, overrides: Sequence[str], processes: int | None) -> None:
    """Print what was tried, and "this would run".

    Args:
        processes: ranks of the whole job; None: nodes x GPUs of the `slurm` section, or one.

    Raises:
        UserError: the first reason why it would not run.
    """
    # Before torch is imported, so that it sees no GPU: none is needed here.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    slurm = load_config(path, overrides).config.slurm
    size = processes or (slurm.nodes or 0) * (slurm.gpus_per_node or 0) or 1
    loaded = load_config(path, overrides, size)
    config = loaded.config
    print(f"config: no problem found for {counted(size, 'process')}")
    from pretrain.cpu import megatron as cpu_backend

    cpu_backend.require_tested_megatron()  # first, because it keeps megatron-core from loading a compiler
    kind = kind_of(config)
    data = kind.open_data(loaded, config, size)
    print(f"data: opened, {kind.contents(data)}")
    _require_writable(Path(config.run.dir))
    changes = RunFolder(config.run.dir).require_fit(config_to_yaml(config), config.run.resume)
    there = "goes on with the run in it" if RunFolder(config.run.dir).is_run else "is new"
    print(f"run.dir: {config.run.dir} {there}" + (f", with other {', '.join(changes)}" if changes else ""))
    from pretrain.checkpoint import open_checkpoint, resolve
    from pretrain.rehearsal.job import rehearse

    own = open_checkpoint(resolve(config.run.dir)) if goes_on(config.run.dir, config.model.kind) else None
    rehearse(config, size, kind.trainer, own)
    print("this would run")


def _require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made: its nearest existing parent must take new files."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be made: {there} is no folder that takes new files", "run.dir")
