"""`pretrain train`: starts ranks of itself on this machine, or is a rank."""

import os
import sys
from collections.abc import Sequence
from functools import partial

from pretrain.config.load import load_config
from pretrain.distributed.launcher import ranks_to_start, read_rank_info
from pretrain.distributed.spawn import spawn
from pretrain.health.heartbeat import last_place
from pretrain.run.folder import RunFolder
from pretrain.run.signals import Signals


def train_command(path: str, processes: int | None, overrides: Sequence[str], signals: Signals) -> None:
    """`pretrain train`.

    Args:
        processes: ranks to start on this machine; None: only this process, or one of a launcher's.
        signals: being caught since the command was called.

    Raises:
        UserError: everything that is wrong with the config, at once.
        StoppedEarly: a signal came.
    """
    place = read_rank_info(os.environ)
    ranks = ranks_to_start(place, processes)
    loaded = load_config(path, overrides, max(ranks, place.size))
    if ranks > 1:
        command = [sys.executable, "-m", "pretrain", "train", "--", path, *overrides]
        beats = RunFolder(loaded.config.run.dir).heartbeat
        sys.exit(spawn(command, ranks, signals, partial(last_place, beats)))
    # A command that only starts ranks does not wait for these imports, which take seconds.
    from pretrain.commands.train import train
    from pretrain.distributed.world import init_distributed

    with init_distributed(place, loaded.config.health.join_timeout, signals.pending) as world:
        train(loaded, world, signals)
