"""Checkpoints: save, verify, find the newest good one, and load on any parallel dims."""

from pretrain.checkpoint.checkpoint import Checkpoint, open_checkpoint
from pretrain.checkpoint.coordinator import LocalCoordinator, StoreCoordinator
from pretrain.checkpoint.find import find_good, newest_good, resolve
from pretrain.checkpoint.layout import SUSPECT_SINCE, suspect_since
from pretrain.checkpoint.manifest import Fault, verify
from pretrain.checkpoint.retention import Retention, clean, give_up_after, trim
from pretrain.checkpoint.saver import Saver, SaveReport
from pretrain.checkpoint.sharded_tensor import Group, ShardedTensor
from pretrain.checkpoint.shared_check import SharedCheck
