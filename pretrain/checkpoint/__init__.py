"""Checkpoints: save, verify, find the newest good one, and load on any parallel dims."""

from pretrain.checkpoint.checkpoint import Checkpoint, load, open_checkpoint
from pretrain.checkpoint.coordinator import CoordinationError, Coordinator, LocalCoordinator, StoreCoordinator
from pretrain.checkpoint.find import find_good, newest_good, resolve
from pretrain.checkpoint.manifest import Fault, verify
from pretrain.checkpoint.retention import Retention, clean, give_up_after, trim
from pretrain.checkpoint.saver import Saver, SaveReport
from pretrain.checkpoint.sharded_tensor import Group, ShardedTensor
from pretrain.checkpoint.shared_check import SharedCheck
from pretrain.checkpoint.suspect import SUSPECT_SINCE, suspect_since

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
    "SharedCheck",
    "StoreCoordinator",
    "clean",
    "find_good",
    "give_up_after",
    "load",
    "newest_good",
    "open_checkpoint",
    "resolve",
    "suspect_since",
    "trim",
    "verify",
]
