"""`pretrain plan`: memory, time and cost of a config on a cluster, without either."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pretrain.config.hardware import Cluster, make_cluster
from pretrain.config.load import load_config, read_config
from pretrain.config.sections import Config
from pretrain.errors import UserError
from pretrain.kind import Planning
from pretrain.kinds import every_kind, kind_of


@dataclass(frozen=True)
class PlanRequest:
    """What the command line asks for."""

    gpu: str
    gpus: int | None
    nodes: int | None
    per_node: int | None
    network_gbit: float | None
    vocab_size: int | None
    tokens: float | None
    search: bool
    json: bool


def plan_command(path: str, overrides: Sequence[str], request: PlanRequest) -> None:
    """Print the plan of a config.

    Raises UserError if the config does not fit the cluster, or there is nothing to plan.
    """
    # Before torch is imported: a plan is the same with and without GPUs in the machine that makes it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    loaded = read_config(path, overrides)
    planning = _planning(loaded.config)
    _refuse_useless(loaded.config, planning, request)
    cluster = _cluster(loaded.config, request)
    # The search tries the layouts that the rules allow, whatever the config's own layout is.
    if not request.search:
        loaded = load_config(path, overrides, cluster.size)
    from pretrain.cpu import megatron as cpu_backend

    cpu_backend.require_tested_megatron()  # first, because it keeps megatron-core from loading a compiler
    planning.show(loaded.config, request, cluster)


def _planning(config: Config) -> Planning:
    found = kind_of(config).planning
    if found is None:
        planned = [kind.name for kind in every_kind() if kind.planning]
        raise UserError(f"plans are made for {_listed(planned)}, got {config.model.kind}", "model.kind")
    return found


def _refuse_useless(config: Config, planning: Planning, request: PlanRequest) -> None:
    """Raise UserError for an option that has no effect."""
    options = {
        "--search": request.search or None,
        "--vocab-size": request.vocab_size,
        "--tokens": request.tokens,
    }
    for option, value in options.items():
        if value is not None and option not in planning.options:
            others = [kind.name for kind in every_kind() if kind.planning and option in kind.planning.options]
            raise UserError(
                f"{option} has no effect on the plan of {kind_of(config).title}: it is for "
                f"{_listed(others)}; remove it"
            )
    if request.tokens is not None and request.search:
        raise UserError(
            "--tokens has no effect with --search, which ranks layouts by the time of a step; remove it"
        )
    if request.tokens is not None and not math.isfinite(request.tokens):
        raise UserError(f"--tokens {request.tokens}: must be a number of tokens such as 300e9")


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _cluster(config: Config, request: PlanRequest) -> Cluster:
    """The cluster of the command line, else of the config's `slurm` section, else one replica."""
    gpus, nodes, per_node = request.gpus, request.nodes, request.per_node
    if gpus is None and nodes is None:
        slurm = config.slurm
        if slurm.nodes and slurm.gpus_per_node:
            nodes, per_node = slurm.nodes, slurm.gpus_per_node
        else:
            gpus = config.replica_ranks
    return make_cluster(request.gpu, gpus, nodes, per_node, request.network_gbit)


def print_json(plan: Any, more: Mapping[str, Any], cluster: Cluster) -> None:
    """Print a plan on a cluster, and `more` about it, as JSON."""
    print(json.dumps({"cluster": asdict(cluster), **more, **_tree(plan)}, indent=1))


def _tree(plan: Any) -> dict[str, Any]:
    """A plan as plain values, including the sums that it has as properties."""
    tree: dict[str, Any] = asdict(plan)
    if hasattr(plan, "stages"):
        for stage, found in zip(tree["stages"], plan.stages, strict=True):
            stage["total"] = found.total
        tree["time"]["total"] = plan.time.total
        tree["fullest"] = plan.fullest.total
        tree["tokens_per_second"] = plan.tokens_per_second
    else:
        for network in ("generator", "discriminator"):
            tree[network]["total"] = getattr(plan, network).total
        tree["time"]["total"] = plan.time.total
        tree["images_per_second"] = plan.images_per_second
    return tree
