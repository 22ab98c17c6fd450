"""`pretrain plan`: memory, time and cost of a config on a cluster, without either."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pretrain.config.load import LoadedConfig, load_config, read_config
from pretrain.config.sections import (
    BertConfig,
    ChatConfig,
    CnnConfig,
    Config,
    FinetuneConfig,
    GanConfig,
    TextConfig,
)
from pretrain.errors import UserError
from pretrain.plan.hardware import Cluster, make_cluster

ASSUMED_VOCABULARY = {"gpt": 50_257, "bert": 30_522}
"""Ids of the published tokenizers, for configs whose data is not here yet."""


@dataclass(frozen=True)
class Request:
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


def plan_command(path: str, overrides: Sequence[str], request: Request) -> None:
    """Print the plan of a config.

    Raises UserError: the config does not fit the cluster, or there is nothing to plan.
    """
    # Before torch is imported: a plan is the same with and without GPUs in the machine that makes it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    loaded = read_config(path, overrides)
    _refuse_useless(loaded.config, request)
    cluster = _cluster(loaded.config, request)
    from pretrain import cpu_backend

    cpu_backend.require_tested_megatron()  # imported first, it keeps megatron-core from loading a compiler
    if request.search:
        from pretrain.plan.search import search_command

        search_command(_text(loaded.config), _vocabulary(loaded, request)[0], cluster, as_json=request.json)
        return
    loaded = load_config(path, overrides, cluster.size)
    if isinstance(loaded.config, GanConfig):
        _plan_gan(loaded.config, cluster, as_json=request.json)
        return
    config = _text(loaded.config)
    from pretrain.plan.table import print_text_plan
    from pretrain.plan.text_plan import plan_text

    began = time.perf_counter()
    vocabulary, where = _vocabulary(loaded, request)
    found = plan_text(config, vocabulary, cluster)
    if request.json:
        _show(found, {"vocabulary": vocabulary, "seconds_to_plan": time.perf_counter() - began}, cluster)
    else:
        print_text_plan(config, found, cluster, f"{vocabulary:,} ids, {where}", request.tokens)


def _plan_gan(config: GanConfig, cluster: Cluster, *, as_json: bool) -> None:
    from data_tools.directory import open_directory, passing_cache
    from data_tools.images.index import read_image_index
    from pretrain.plan.gan_plan import Images, plan_gan
    from pretrain.plan.gan_table import print_gan_plan

    path = config.data.train[0].path
    try:
        with passing_cache(path) as cache:
            place = open_directory(path, cache)
            index = read_image_index(place.local, place.named)
        images = Images(index.channels, len(index.classes) if config.model.conditional else 0, known=True)
    except UserError:
        images = Images()
    plan = plan_gan(config, cluster, images)
    if as_json:
        _show(plan, None, cluster)
    else:
        print_gan_plan(config, plan, cluster)


def _text(config: Config) -> TextConfig:
    if isinstance(config, FinetuneConfig | ChatConfig | CnnConfig) or not isinstance(config, TextConfig):
        raise UserError(f"model.kind: plans are made for gpt, bert and gan, got {config.model.kind}")
    return config


def _refuse_useless(config: Config, request: Request) -> None:
    """Options without effect; raises UserError."""
    about_text = {
        "--search": request.search or None,
        "--vocab-size": request.vocab_size,
        "--tokens": request.tokens,
    }
    for option, value in about_text.items() if isinstance(config, GanConfig) else ():
        if value is not None:
            raise UserError(f"{option} has no effect on the plan of a GAN: it is for gpt and bert; remove it")
    if request.tokens is not None and request.search:
        raise UserError(
            "--tokens has no effect with --search, which ranks layouts by the time of a step; remove it"
        )
    if request.tokens is not None and not math.isfinite(request.tokens):
        raise UserError(f"--tokens {request.tokens}: must be a number of tokens such as 300e9")


def _cluster(config: Config, request: Request) -> Cluster:
    """What the command line says, or else the config's `slurm` section, or else one replica."""
    gpus, nodes, per_node = request.gpus, request.nodes, request.per_node
    if gpus is None and nodes is None:
        slurm = config.slurm
        if slurm.nodes and slurm.gpus_per_node:
            nodes, per_node = slurm.nodes, slurm.gpus_per_node
        else:
            gpus = config.replica_ranks if isinstance(config, TextConfig) else 1
    return make_cluster(request.gpu, gpus, nodes, per_node, request.network_gbit)


def _vocabulary(loaded: LoadedConfig, request: Request) -> tuple[int, str]:
    """Ids of the tokenizer, and where the number comes from."""
    if request.vocab_size is not None:
        return request.vocab_size, "from --vocab-size"
    from data_tools.directory import open_directory, passing_cache
    from data_tools.index import read_index

    config: Any = loaded.config
    path = config.data.train[0].path
    try:
        with passing_cache(path) as cache:
            place = open_directory(path, cache)
            return read_index(place.local, place.named).vocab_size, "from data.train"
    except UserError:
        kind = "bert" if isinstance(config, BertConfig) else "gpt"
        assumed = ASSUMED_VOCABULARY[kind]
        return assumed, "assumed: data.train is not here; --vocab-size says otherwise"


def _show(plan: Any, more: Mapping[str, Any] | None, cluster: Cluster) -> None:
    print(json.dumps({"cluster": asdict(cluster), **(more or {}), **_tree(plan)}, indent=1))


def _tree(plan: Any) -> dict[str, Any]:
    """A plan as plain values, with the sums that it gives as properties."""
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
