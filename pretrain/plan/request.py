"""The options of `pretrain plan`, and its answer for scripts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pretrain.config.hardware import Cluster


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
