"""The number of nodes and processes of a job."""

from dataclasses import dataclass

from data_tools.errors import UserError
from pretrain.config.sections import SlurmConfig


@dataclass(frozen=True)
class Tasks:
    """Processes of a job, the same number on each node."""

    nodes: int
    per_node: int

    @property
    def total(self) -> int:
        return self.nodes * self.per_node


def tasks_of(slurm: SlurmConfig, replica_ranks: int) -> Tasks:
    """Nodes and processes of a training job.

    Args:
        replica_ranks: ranks that hold one replica of the model.

    Raises:
        UserError: the number of nodes follows from the parallel dims, but one replica does not fill a whole
            number of nodes.
    """
    per_node = slurm.gpus_per_node or slurm.tasks_per_node or 1
    if slurm.nodes is not None:
        return Tasks(slurm.nodes, per_node)
    nodes = -(-replica_ranks // per_node)
    if nodes * per_node % replica_ranks:
        key = "gpus_per_node" if slurm.gpus_per_node else "tasks_per_node"
        legal = [count for count in range(1, replica_ranks + 1) if replica_ranks % count == 0]
        nearest = sorted(sorted(legal, key=lambda count: abs(count - per_node))[:3])
        raise UserError(
            f"slurm.{key}: one replica of {replica_ranks} ranks fills no whole number of nodes of {per_node} "
            f"(nearest legal: slurm.{key} {' or '.join(map(str, nearest))}, or set slurm.nodes)"
        )
    return Tasks(nodes, per_node)
