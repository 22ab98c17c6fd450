"""`pretrain plan` of a GAN: its plan as tables."""

from rich.console import Console
from rich.table import Table

from data_tools.counts import counted
from data_tools.directory import open_directory, passing_cache
from data_tools.images.index import read_image_index
from pretrain.config.hardware import RESERVE, STREAM, Cluster
from pretrain.config.sections import GanConfig
from pretrain.errors import UserError
from pretrain.plan.command import PlanRequest, print_json
from pretrain.plan.gan_plan import GanPlan, Images, plan_gan
from pretrain.plan.table import DAY, GB, grid, table_of, traffic_table


def show_gan_plan(config: GanConfig, request: PlanRequest, cluster: Cluster) -> None:
    """Print the plan.

    Args:
        config: of the run; it fits the cluster (`config.rules`).
        request: the command's options.
        cluster: where it is to run.
    """
    path = config.data.train[0].path
    try:
        with passing_cache(path) as cache:
            place = open_directory(path, cache)
            index = read_image_index(place.local, place.named)
        images = Images(index.channels, len(index.classes) if config.model.conditional else 0, known=True)
    except UserError:
        images = Images()
    plan = plan_gan(config, cluster, images)
    if request.json:
        print_json(plan, {}, cluster)
    else:
        print_gan_plan(config, plan, cluster)


MB = 1e6


def print_gan_plan(config: GanConfig, plan: GanPlan, cluster: Cluster) -> None:
    """Print tables of memory, communication and time on standard output."""
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    console.print(_facts(config, plan, cluster))
    console.print(_memory(plan))
    if plan.traffic:
        console.print(traffic_table(plan.traffic, "MB", MB))
    console.print(_time(config, plan, cluster))
    console.print(verdict(config, plan, cluster))
    console.print(
        "Bytes of weights, gradients, optimizer and average are exact; activations and FLOPs are counted in "
        "a run of both updates on fake tensors, penalties included; what the reduction takes is the most "
        "that DeepSpeed was measured to take. The time is the least: of the peak, products reach "
        f"{cluster.gpu.matmul:.0%}, memory and links {STREAM:.0%} of their bandwidth, and convolutions of "
        f"few channels stay below that (docs/planning.md). Card: {cluster.gpu.source}.",
        style="dim",
    )


def verdict(config: GanConfig, plan: GanPlan, cluster: Cluster) -> str:
    """Whether a rank fits, in one line."""
    offloaded = config.parallel.offload_optimizer
    need, have = plan.total(offloaded) / GB, cluster.usable / GB
    reserve = "" if cluster.name == "cpu" else f" ({RESERVE / GB:.0f} GB of the card are kept back)"
    host = "; optimizer states are in the host's memory" if offloaded else ""
    if need <= have:
        return f"fits: a rank needs {need:,.2f} GB of {have:,.1f} GB{reserve}{host}"
    return (
        f"does not fit: a rank needs {need:,.2f} GB of {have:,.1f} GB{reserve}{host}. A smaller "
        "batch.micro_size makes activations smaller, a higher ZeRO stage what is held"
    )


def _facts(config: GanConfig, plan: GanPlan, cluster: Cluster) -> Table:
    rows = grid()
    stages = config.parallel
    images = plan.images
    kind = {1: "grey", 3: "RGB"}[images.channels] + (
        f", {counted(images.classes, 'class')}" if images.classes else ""
    )
    where = "from data.train" if images.known else "assumed: data.train is not here"
    if config.model.conditional and not images.known:
        where += ", nor the number of its classes: none are taken"
    counts = f"{plan.generator.parameters:,} (G) and {plan.discriminator.parameters:,} (D) parameters"
    rows.add_row("model", f"{config.model.architecture}, {counts}")
    rows.add_row("images", f"{config.model.image_size} x {config.model.image_size}, {kind}, {where}")
    rows.add_row("cluster", f"{cluster.size:,} x {cluster.name}, {cluster.per_node} a node")
    rows.add_row(
        "layout",
        f"data {cluster.size}, ZeRO {stages.generator_stage} (G) and {stages.discriminator_stage} (D)",
    )
    rows.add_row(
        "batch",
        f"{counted(config.batch.global_size, 'image')} an update, in "
        f"{counted(plan.micro_batches, 'micro-batch')} on each rank; "
        f"updates of D before one of G: {config.loss.discriminator_steps}",
    )
    return rows


def _memory(plan: GanPlan) -> Table:
    columns = ("parameters", "ZeRO", "weights", "gradients", "optimizer", "average", "total")
    shown = table_of("Memory of a rank, MB", "network", *columns)
    for each in (plan.generator, plan.discriminator):
        sizes = (each.weights, each.gradients, each.optimizer, each.average, each.total)
        shown.add_row(
            each.name, f"{each.parameters:,}", str(each.stage), *(f"{size / MB:,.1f}" for size in sizes)
        )
    blank = [""] * 6
    shown.add_row("activations", *blank, f"{plan.activations / MB:,.1f}")
    shown.add_row("reduction", *blank, f"{plan.reducing / MB:,.1f}")
    if plan.gathered:
        shown.add_row("gathered", *blank, f"{plan.gathered / MB:,.1f}")
    return shown


def _time(config: GanConfig, plan: GanPlan, cluster: Cluster) -> Table:
    rows = grid()
    time, steps = plan.time, config.run.steps
    rows.add_row("FLOPs a step", f"{plan.flops_per_step:.4g} on each rank")
    rows.add_row(
        "step",
        f"at least {time.total:.4f} s: compute {time.compute:.4f}, reduction {time.reduction:.4f}, "
        f"update {time.update:.4f}",
    )
    rows.add_row("rate", f"at most {plan.images_per_second:,.0f} images/s")
    days = steps * time.total / DAY
    rows.add_row(
        "whole run",
        f"{counted(steps * plan.images_per_step, 'image')}: at least {days:,.2f} days, "
        f"{days * 24 * cluster.size:,.1f} GPU-hours",
    )
    return rows
