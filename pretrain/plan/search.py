"""Every layout of a config on a cluster, ranked by time, and why the others are rejected."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

from rich.console import Console
from rich.table import Table

from pretrain.config.hardware import Cluster
from pretrain.config.rules import violations
from pretrain.config.sections import TextConfig
from pretrain.errors import UserError
from pretrain.megatron.model_spec import SpecOf
from pretrain.plan.states import States
from pretrain.plan.text_plan import held_by_stage, plan_text
from pretrain.plan.trace import Trace, trace_shallow

MICRO_SIZES = (1, 2, 4, 8)
VIRTUAL = (None, 2, 3, 4, 6, 8)
SHOWN = 15


@dataclass(frozen=True)
class CandidateLayout:
    """What a search varies.

    Sequence parallelism follows tensor parallelism, and optimizer states are sharded if there are replicas.
    """

    tensor: int
    pipeline: int
    virtual_pipeline: int | None
    micro_size: int
    recompute: str

    def applied(self, config: TextConfig, size: int) -> TextConfig:
        ranks = self.tensor * self.pipeline * config.parallel.context
        parallel = config.parallel.model_copy(
            update={
                "tensor": self.tensor,
                "pipeline": self.pipeline,
                "virtual_pipeline": self.virtual_pipeline,
                "sequence": self.tensor > 1,
                "distributed_optimizer": size > ranks or config.parallel.context > 1,
                "overlap_grad_reduce": config.parallel.overlap_grad_reduce and size > ranks,
                "recompute": self.recompute,
            }
        )
        batch = config.batch.model_copy(update={"micro_size": self.micro_size})
        return config.model_copy(update={"parallel": parallel, "batch": batch})

    def __str__(self) -> str:
        chunks = f" VPP{self.virtual_pipeline}" if self.virtual_pipeline else ""
        again = " recompute full" if self.recompute == "full" else ""
        return f"TP{self.tensor} PP{self.pipeline}{chunks} micro {self.micro_size}{again}"


@dataclass(frozen=True)
class RankedLayout:
    """A legal layout and what it costs."""

    layout: CandidateLayout
    gigabytes: float
    seconds: float
    mfu: float


@dataclass(frozen=True)
class RejectedLayout:
    """A layout that is rejected, with the first reason."""

    layout: CandidateLayout
    reason: str
    kind: str
    """The group that it is counted in."""
    gigabytes: float | None = None
    """What it needs; None if it is not legal."""


class Search:
    """Tries layouts; what several have in common is traced once."""

    def __init__(self, config: TextConfig, vocab_size: int, cluster: Cluster, spec_of: SpecOf) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.cluster = cluster
        self.spec_of = spec_of
        self._traces: dict[tuple[int, int, str, int, int], Trace] = {}
        self._held: dict[tuple[int, int], tuple[States, ...]] = {}

    def layouts(self) -> Iterator[CandidateLayout]:
        """All layouts that divide heads, layers and nodes; those without recomputation first."""
        model, size = self.config.model, self.cluster.size
        tensors = [
            n for n in range(1, self.cluster.per_node + 1) if model.num_attention_heads % n == 0 == size % n
        ]
        pipelines = [n for n in range(1, model.num_layers + 1) if model.num_layers % n == 0 == size % n]
        for recompute, tensor, pipeline, virtual, micro in product(
            ("none", "full"), tensors, pipelines, VIRTUAL, MICRO_SIZES
        ):
            if virtual is None or (pipeline > 1 and model.num_layers % (pipeline * virtual) == 0):
                yield CandidateLayout(tensor, pipeline, virtual, micro, recompute)

    def judge(self, layout: CandidateLayout) -> RankedLayout | RejectedLayout:
        """What a layout costs, or why it is rejected."""
        config = layout.applied(self.config, self.cluster.size)
        broken = violations(config, self.cluster.size)
        if broken:
            return RejectedLayout(layout, broken[0].message, broken[0].rule)
        key = layout.tensor, layout.pipeline
        if key not in self._held:
            self._held[key] = held_by_stage(config, self.vocab_size, self.cluster.size, self.spec_of)
        states = max(held.total for held in self._held[key])
        if states > self.cluster.usable:
            return self._too_large(layout, states, "weights, gradients and optimizer states alone")
        traced = self._trace(layout, config)
        plan = plan_text(config, self.vocab_size, self.cluster, self.spec_of, traced, self._held[key])
        if plan.fullest.total > self.cluster.usable:
            return self._too_large(layout, plan.fullest.total, "with activations")
        return RankedLayout(layout, plan.fullest.total / 1e9, plan.time.total, plan.mfu)

    def _too_large(self, layout: CandidateLayout, size: float, what: str) -> RejectedLayout:
        reason = f"{what} need {size / 1e9:.1f} GB of {self.cluster.usable / 1e9:.1f} GB"
        return RejectedLayout(layout, reason, f"too large: {what}", size / 1e9)

    def _trace(self, layout: CandidateLayout, config: TextConfig) -> Trace:
        """Costs of this layout's chunks. Those of larger micro-batches follow from one and two samples."""
        deep = config.model.num_layers // (layout.pipeline * (layout.virtual_pipeline or 1)) - 1
        one, two = (
            self._shallow(layout, config, 1, samples).extended(
                self._shallow(layout, config, 2, samples), deep
            )
            for samples in (1, 2)
        )
        return one.extended(two, layout.micro_size - 1)

    def _shallow(self, layout: CandidateLayout, config: TextConfig, layers: int, samples: int) -> Trace:
        """Trace at most three stages, whatever the layout has: a first, a middle and a last one."""
        stages = 3 if layout.pipeline > 1 else 1
        key = layout.tensor, stages, layout.recompute, layers, samples
        if key not in self._traces:
            alike = replace(layout, pipeline=stages, virtual_pipeline=None, micro_size=samples)
            fused = self.cluster.name != "cpu"
            small = alike.applied(config, self.cluster.size)
            self._traces[key] = trace_shallow(
                small, self.vocab_size, self.spec_of, layers, fused_dropout=fused
            )
        return self._traces[key]


def search_command(
    config: TextConfig, vocab_size: int, cluster: Cluster, spec_of: SpecOf, *, as_json: bool
) -> None:
    """Print the ranking. Raises UserError if no layout is legal and fits."""
    search = Search(config, vocab_size, cluster, spec_of)
    found: list[RankedLayout] = []
    out: list[RejectedLayout] = []
    console = Console(stderr=True)
    with console.status("searching") as status:
        for layout in search.layouts():
            status.update(f"{layout}: {len(found)} fit so far, {len(out)} do not")
            judged = search.judge(layout)
            if isinstance(judged, RankedLayout):
                found.append(judged)
            else:
                out.append(judged)
    found.sort(key=lambda each: each.seconds)
    if as_json:
        print(json.dumps({"found": [asdict(each) for each in found], "out": [asdict(each) for each in out]}))
    elif found:
        _print(found, out)
    if not found:
        nearest = min(out, key=lambda each: math.inf if each.gigabytes is None else each.gigabytes)
        raise UserError(
            f"none of {len(out)} layouts fits {cluster.size} x {cluster.name}; the nearest: "
            f"{nearest.layout}: {nearest.reason}"
        )


def _print(found: list[RankedLayout], out: list[RejectedLayout]) -> None:
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    table = Table(title=f"{len(found)} layouts fit; the fastest", title_justify="left", title_style="bold")
    for name in ("layout", "GB of the fullest rank", "step, s", "MFU"):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for each in found[:SHOWN]:
        table.add_row(str(each.layout), f"{each.gigabytes:.1f}", f"{each.seconds:.3f}", f"{each.mfu:.1%}")
    console.print(table)
    reasons = Counter(each.kind for each in out)
    for kind, count in reasons.most_common():
        example = next(each for each in out if each.kind == kind)
        console.print(f"out, {count}: {kind}. Such as {example.layout}: {example.reason}", markup=False)
