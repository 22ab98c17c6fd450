"""A GAN's plan for people."""

from rich.console import Console
from rich.table import Table

from pretrain.config.sections import GanConfig
from pretrain.plan.gan_plan import GanPlan
from pretrain.plan.hardware import Cluster


def print_gan_plan(config: GanConfig, plan: GanPlan, cluster: Cluster) -> None:
    """Tables on standard output."""
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    table = Table(title="Memory of a rank, MB", title_justify="left", title_style="bold")
    for name in ("network", "parameters", "ZeRO", "weights", "gradients", "optimizer"):
        table.add_column(name, justify="right")
    for each in (plan.generator, plan.discriminator):
        sizes = (f"{size / 1e6:,.1f}" for size in (each.weights, each.gradients, each.optimizer))
        table.add_row(each.name, f"{each.parameters:,}", str(each.stage), *sizes)
    console.print(table)
    offloaded = config.parallel.offload_optimizer
    total = plan.total(offloaded)
    fits = "fits" if total <= cluster.usable else "does not fit"
    where = "; optimizer states are in the host's memory" if offloaded else ""
    console.print(f"activations of a micro-batch: {plan.activations / 1e6:,.1f} MB")
    console.print(f"FLOPs a step and rank: {plan.flops_per_step:.4g}, without penalties")
    console.print(
        f"step: at least {plan.step_seconds:.4f} s on {cluster.size} x {cluster.name}, by the roofline of "
        "its convolutions; penalties, reductions and both optimizers come on top"
    )
    console.print(
        f"{fits}: {total / 1e9:,.2f} GB of {cluster.usable / 1e9:,.1f} GB{where}. Images are taken as RGB "
        "without classes; DeepSpeed's flat buffers, of the network's size, come on top"
    )
