"""`pretrain plan` of a transformer: its plan on one layout as tables, or the layouts that fit, ranked."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from data_tools.counts import counted
from data_tools.directory import open_directory, passing_cache
from data_tools.index import read_index
from pretrain.config.hardware import KERNEL_SECONDS, RESERVE, SPREAD, STREAM, Cluster
from pretrain.config.sections import CorpusConfig, TextConfig
from pretrain.config.stages import tokens_until
from pretrain.errors import UserError
from pretrain.megatron.model_spec import SpecOf
from pretrain.plan.command import PlanRequest, print_json
from pretrain.plan.search import search_command
from pretrain.plan.text_plan import StageMemory, TextPlan, plan_text
from pretrain.plan.timing import Communication


def show_text_plan(
    spec_of: SpecOf, assumed: int, config: CorpusConfig, request: PlanRequest, cluster: Cluster
) -> None:
    """Print the plan.

    Args:
        spec_of: makes the model spec.
        assumed: ids of the published tokenizer, for configs whose data is not here yet.
        config: of the run; it fits the cluster (`config.rules`), except in a search.
        request: the command's options.
        cluster: where it is to run.

    Raises:
        UserError: no layout fits.
    """
    began = time.perf_counter()
    vocabulary, where = _vocabulary(config, request, assumed)
    if request.search:
        search_command(config, vocabulary, cluster, spec_of, as_json=request.json)
        return
    found = plan_text(config, vocabulary, cluster, spec_of)
    if request.json:
        more = {"vocabulary": vocabulary, "seconds_to_plan": time.perf_counter() - began}
        print_json(found, more, cluster)
    else:
        print_text_plan(config, found, cluster, f"{vocabulary:,} ids, {where}", request.tokens)


def _vocabulary(config: CorpusConfig, request: PlanRequest, assumed: int) -> tuple[int, str]:
    """Ids of the tokenizer, and where the number comes from."""
    if request.vocab_size is not None:
        return request.vocab_size, "from --vocab-size"
    path = config.data.train[0].path
    try:
        with passing_cache(path) as cache:
            place = open_directory(path, cache)
            return read_index(place.local, place.named).vocab_size, "from data.train"
    except UserError:
        return assumed, "assumed: data.train is not here; --vocab-size says otherwise"


GB = 1e9
DAY = 86_400
SHOWN_STAGES = 4
"""Stages in the middle of a long pipeline are alike, so only the first ones and the last are shown."""


def print_text_plan(
    config: TextConfig, plan: TextPlan, cluster: Cluster, vocabulary: str, tokens: float | None
) -> None:
    """Print tables of memory, communication and time on standard output."""
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    console.print(_facts(config, plan, cluster, vocabulary))
    console.print(_memory(plan, cluster))
    if plan.traffic:
        console.print(traffic_table(plan.traffic))
    console.print(_time(config, plan, cluster, tokens))
    console.print(verdict(plan, cluster))
    console.print(
        f"Bytes of states are exact; activations and FLOPs are counted in a run on fake tensors. Times are "
        f"estimates: of the peak, matrix products reach {cluster.gpu.matmul:.0%} and attention "
        f"{cluster.gpu.attention:.0%}, memory and links {STREAM:.0%} of their bandwidth, no operation is "
        f"shorter than {KERNEL_SECONDS * 1e6:.0f} us; the range is +-{SPREAD:.0%} (docs/planning.md). "
        f"Card: {cluster.gpu.source}.",
        style="dim",
    )


def verdict(plan: TextPlan, cluster: Cluster) -> str:
    """Whether the fullest rank fits, in one line."""
    need, have = plan.fullest.total / GB, cluster.usable / GB
    where = f"stage {plan.fullest.stage} needs {need:.1f} GB of {have:.1f} GB"
    reserve = "" if cluster.name == "cpu" else f" ({RESERVE / GB:.0f} GB of the card are kept back)"
    if need <= have:
        return f"fits: {where}{reserve}"
    return (
        f"does not fit: {where}{reserve}. More tensor or pipeline parallelism, parallel.recompute, a smaller "
        "batch.micro_size or a distributed optimizer make it smaller; --search tries them"
    )


def _facts(config: TextConfig, plan: TextPlan, cluster: Cluster, vocabulary: str) -> Table:
    table = grid()
    p = config.parallel
    layout = f"tensor {p.tensor}, pipeline {p.pipeline}, context {p.context}, data {plan.replicas}"
    if p.virtual_pipeline:
        layout += f"; {p.virtual_pipeline} chunks a stage"
    table.add_row("model", f"{plan.parameters / 1e9:,.3f} billion parameters; vocabulary {vocabulary}")
    table.add_row("cluster", f"{cluster.size:,} x {cluster.name}, {cluster.per_node} a node")
    table.add_row("layout", layout)
    table.add_row(
        "batch",
        f"{counted(plan.tokens_per_step, 'token')}; {counted(plan.micro_batches, 'micro-batch')} "
        f"of {config.batch.micro_size}",
    )
    return table


def _memory(plan: TextPlan, cluster: Cluster) -> Table:
    table = table_of("Memory of a rank, GB", "stage", "parameters")
    for name in ("weights", "gradients", "optimizer", "activations", "buffers", "total", "of card"):
        table.add_column(name, justify="right")
    for stage in _shown(plan.stages):
        if stage is None:
            table.add_row(*["..."] * 9)
            continue
        held = stage.states
        numbers = held.weights, held.gradients, held.optimizer, stage.activations, stage.buffers, stage.total
        table.add_row(
            str(stage.stage),
            f"{held.parameters:,}",
            *(f"{number / GB:,.2f}" for number in numbers),
            f"{stage.total / cluster.usable:.0%}",
        )
    return table


def _shown(stages: tuple[StageMemory, ...]) -> Iterator[StageMemory | None]:
    if len(stages) <= SHOWN_STAGES + 2:
        yield from stages
        return
    yield from stages[: SHOWN_STAGES - 1]
    yield None
    yield stages[-1]


def traffic_table(traffic: Sequence[Communication], unit: str = "GB", size: float = GB) -> Table:
    """What a rank sends, in units of `size` bytes."""
    table = table_of("Sent by a rank in a step", "group", "ranks")
    for name in (unit, "seconds", "crosses nodes"):
        table.add_column(name, justify="right")
    for each in traffic:
        crosses = "yes" if each.crosses_nodes else "no"
        table.add_row(each.group, str(each.size), f"{each.sent / size:,.2f}", f"{each.seconds:.3f}", crosses)
    return table


def _time(config: TextConfig, plan: TextPlan, cluster: Cluster, tokens: float | None) -> Table:
    table = grid()
    time = plan.time
    model = plan.flops_per_token * plan.tokens_per_step
    table.add_row("FLOPs a token", f"{plan.flops_per_token:.4g} forward and backward, nothing recomputed")
    table.add_row("FLOPs a step", f"{model:.4g} of the model; {plan.hardware_flops_per_step:.4g} run")
    table.add_row(
        "step",
        f"{time.total:.3f} s ({time.fastest:.3f} to {time.slowest:.3f}): compute {time.compute:.3f}, "
        f"collectives {time.waits:.3f}, bubble {time.bubble:.3f}, reduction {time.reduction:.3f}, "
        f"update {time.update:.3f}",
    )
    table.add_row("bubble", f"{plan.bubble:.1%} of a step, if all stages took the same time")
    worst, best = plan.mfu * time.total / time.slowest, plan.mfu * time.total / time.fastest
    table.add_row(
        "MFU",
        f"{plan.mfu:.1%} ({worst:.1%} to {best:.1%}) of {cluster.peak(config.precision) / 1e12:,.0f} TFLOP/s",
    )
    table.add_row("rate", f"{plan.tokens_per_second:,.0f} tokens/s")
    total = tokens or tokens_until(config, config.run.steps)
    days = total / plan.tokens_per_second / DAY
    table.add_row(
        "whole run",
        f"{total / 1e9:,.3g} billion tokens: {days:,.2f} days ({days * time.fastest / time.total:,.2f} to "
        f"{days * time.slowest / time.total:,.2f}), {days * 24 * cluster.size:,.0f} GPU-hours",
    )
    return table


def grid() -> Table:
    """An empty table of names and explanations."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    return rows


def table_of(title: str, *columns: str) -> Table:
    """An empty table of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
