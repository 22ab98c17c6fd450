"""`pretrain plan` of a GAN."""

from data_tools.directory import open_directory, passing_cache
from data_tools.images.index import read_image_index
from pretrain.config.hardware import Cluster
from pretrain.config.sections import GanConfig
from pretrain.errors import UserError
from pretrain.plan.gan_plan import Images, plan_gan
from pretrain.plan.gan_table import print_gan_plan
from pretrain.plan.request import PlanRequest, print_json


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
