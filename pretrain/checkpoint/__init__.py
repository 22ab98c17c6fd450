"""Checkpoints: save, verify, find the newest good one, and load on any parallel dims."""

from pretrain.checkpoint.checkpoint import Checkpoint, open_checkpoint
from pretrain.checkpoint.coordinator import CoordinationError, Coordinator, LocalCoordinator, StoreCoordinator
from pretrain.checkpoint.find import find_good, newest_good, resolve
from pretrain.checkpoint.layout import SUSPECT_SINCE, suspect_since
from pretrain.checkpoint.manifest import Fault, verify
from pretrain.checkpoint.retention import Retention, clean, give_up_after, trim
from pretrain.checkpoint.saver import Saver, SaveReport
from pretrain.checkpoint.sharded_tensor import Group, ShardedTensor

__all__ = [
    "SUSPECT_SINCE",
    "Checkpoint",
    "CoordinationError",
    "Coordinator",
    "Fault",
    "Group",
    "LocalCoordinator",
    "Retention",
    "SaveReport",
    "Saver",
    "ShardedTensor",
    "StoreCoordinator",
    "clean",
    "find_good",
    "give_up_after",
    "newest_good",
    "open_checkpoint",
    "resolve",
    "suspect_since",
    "trim",
    "verify",
]
