"""Presets of published models: every rank is built, and all together they have the published sizes."""

import re
from pathlib import Path

import pytest
from config_files import REPOSITORY

from pretrain.config.hardware import make_cluster
from pretrain.config.load import load_config, read_config, require_kind
from pretrain.config.sections import TextConfig
from pretrain.kinds import kind_of
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.sharding import parameter_shards
from pretrain.plan.fake_world import Kind, fake_world
from pretrain.plan.text_plan import plan_text


def gpt(layers: int, width: int, positions: int, vocabulary: int = 50_257) -> int:
    """Embeddings; per layer four square matrices of attention and eight of the feed-forward half, their
    biases (3 + 1 + 4 + 1 widths) and two norms of two vectors; a norm at the end."""
    layer = (4 + 8) * width * width + (9 + 4) * width
    return (vocabulary + positions) * width + layers * layer + 2 * width


def llama(layers: int, width: int, ffn: int, vocabulary: int) -> int:
    """Two embeddings; per layer four square matrices, three of the feed-forward half, two norms; one norm."""
    return 2 * vocabulary * width + layers * (4 * width * width + 3 * width * ffn + 2 * width) + width


def modern(
    layers: int, width: int, ffn: int, vocabulary: int, heads: tuple[int, int, int], norms: int, tied: bool
) -> int:
    """As `llama`, with heads, key/value heads and the size of each, and the vectors of a layer's norms."""
    queries, keys, size = heads
    layer = 2 * width * size * (queries + keys) + 3 * width * ffn + norms
    return (1 if tied else 2) * vocabulary * width + layers * layer + width


PADDED = 50_304
"""Rows of an embedding that eight ranks share."""
PRESETS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    # name: (vocabulary, parameters, numbers of GPUs that it is for)
    "gpt/gpt1-117m": (40_478, gpt(12, 768, 512, 40_478), (1, 8)),
    "gpt/gpt2-124m": (50_257, 124_439_808, (8, 64)),
    "gpt/gpt2-355m": (50_257, 354_823_168, (8, 64)),
    "gpt/gpt2-774m": (50_257, 774_030_080, (8, 64)),
    "gpt/gpt2-1.5b": (50_257, 1_557_611_200, (8, 64)),
    "gpt/gpt3-125m": (50_257, gpt(12, 768, 2048), (2, 16)),
    "gpt/gpt3-350m": (50_257, gpt(24, 1024, 2048), (8, 32)),
    "gpt/gpt3-760m": (50_257, gpt(24, 1536, 2048), (8, 32)),
    "gpt/gpt3-1.3b": (50_257, gpt(24, 2048, 2048), (8, 64)),
    "gpt/gpt3-2.7b": (50_257, gpt(32, 2560, 2048), (8, 64)),
    "gpt/gpt3-6.7b": (PADDED, gpt(32, 4096, 2048, PADDED), (8, 256)),
    "gpt/gpt3-13b": (PADDED, gpt(40, 5120, 2048, PADDED), (16, 512)),
    "gpt/gpt3-175b": (PADDED, gpt(96, 12288, 2048, PADDED), (128, 512, 1024)),
    "gpt/llama-7b": (32_000, 6_738_415_616, (8, 256, 512)),
    "gpt/llama3.1-8b": (128_256, 8_030_261_248, (8, 64, 1024)),
    "gpt/llama3.1-70b": (128_256, 70_553_706_496, (128, 512, 1024)),
    "gpt/llama3.1-405b": (128_256, 405_853_388_800, (896, 7168)),
    "gpt/qwen3-0.6b": (151_936, 596_049_920, (1, 8, 64)),
    "gpt/qwen3-1.7b": (151_936, 1_720_574_976, (4, 16, 128)),
    "gpt/qwen3-4b": (151_936, 4_022_468_096, (8, 32, 256)),
    "gpt/qwen3-8b": (151_936, 8_190_735_360, (8, 64, 1024)),
    "gpt/qwen3-14b": (151_936, 14_768_307_200, (32, 128, 1024)),
    "gpt/qwen3-32b": (151_936, 32_762_123_264, (64, 256, 1024)),
    "gpt/olmo2-7b": (100_352, 7_298_617_344, (8, 64, 512)),
    "gpt/olmo2-13b": (100_352, 13_716_198_400, (16, 128, 1024)),
    "bert/base": (30_522, 110_106_428, (8, 32)),
    "bert/large": (30_522, 336_226_108, (8, 32)),
}


def test_the_formulas_give_what_papers_and_weights_say() -> None:
    """As published on the Hub; those of GPT-3 round to the names of table 2.1."""
    assert gpt(12, 768, 1024) == 124_439_808 and gpt(48, 1600, 1024) == 1_557_611_200
    assert llama(32, 4096, 11_008, 32_000) == 6_738_415_616
    for name, found in {
        "llama3.1-8b": modern(32, 4096, 14_336, 128_256, (32, 8, 128), 2 * 4096, False),
        "llama3.1-70b": modern(80, 8192, 28_672, 128_256, (64, 8, 128), 2 * 8192, False),
        "llama3.1-405b": modern(126, 16_384, 53_248, 128_256, (128, 8, 128), 2 * 16_384, False),
        "qwen3-0.6b": modern(28, 1024, 3072, 151_936, (16, 8, 128), 2 * 1024 + 2 * 128, True),
        "qwen3-32b": modern(64, 5120, 25_600, 151_936, (64, 8, 128), 2 * 5120 + 2 * 128, False),
        "olmo2-13b": modern(40, 5120, 13_824, 100_352, (40, 40, 128), 4 * 5120, False),
    }.items():
        assert PRESETS[f"gpt/{name}"][1] == found, name
    assert round(gpt(96, 12288, 2048) / 1e9) == 175 and gpt(40, 5120, 2048) // 10**8 == 128


def test_every_preset_is_for_the_gpus_that_the_page_says() -> None:
    """The page of the planner has a line for each, whose ends are tried below."""
    said = {}
    for line in (REPOSITORY / "docs" / "planning.md").read_text().splitlines():
        for name in re.findall(r"`configs/(\S+)\.yaml`", line) if line.startswith("| `configs") else ():
            said[name] = tuple(int(end.replace(",", "")) for end in line.split("|")[3].split(" to "))
    assert said == {name: (worlds[0], worlds[-1]) for name, (_, _, worlds) in PRESETS.items()}
    for name, (first, last) in said.items():
        text = Path(path_of(name)).read_text()
        assert f"# {first} to {last:,} GPUs" in text, name


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_on_cards_of_80_gb(name: str) -> None:
    """On the fewest it is for: on more of them, each holds less of the optimizer's states."""
    vocabulary, _, worlds = PRESETS[name]
    config = require_kind(load_config(path_of(name), (), worlds[0]).config, TextConfig, "this test")
    cluster = make_cluster("h100-80g", worlds[0], None, None, None)
    assert plan_text(config, vocabulary, cluster, kind_of(config).spec).fullest.total <= cluster.usable


def path_of(name: str) -> str:
    return str(REPOSITORY / "configs" / f"{name}.yaml")


def test_every_preset_has_a_case() -> None:
    shipped = {f"gpt/{path.stem}" for path in Path(REPOSITORY, "configs", "gpt").glob("*.yaml")}
    examples = {"gpt/char-small", "gpt/finetune-chat", "gpt/quickstart", "gpt/tiny", "gpt/wikitext-2"}
    assert {name for name in PRESETS if name.startswith("gpt/")} == shipped - examples


@pytest.mark.parametrize("name", PRESETS)
def test_every_rank_is_built_and_the_sum_is_the_published_size(name: str) -> None:
    """All ranks of one replica, on the meta device; replicas are copies. Its worlds are legal."""
    vocabulary, parameters, worlds = PRESETS[name]
    for size in worlds:
        load_config(path_of(name), (), size)
    config = require_kind(read_config(path_of(name)).config, TextConfig, "this test")
    unpadded = config.model.model_copy(update={"vocab_multiple": config.parallel.tensor})
    config = config.model_copy(update={"model": unpadded})
    found = 0
    for rank in range(config.replica_ranks):
        with fake_world(rank, config.replica_ranks, Kind.meta) as world:
            layout = build_parallel_dims(world, config.parallel)
            model = PipelineModel(
                config, layout, vocabulary, kind_of(config).spec(config, layout), training=False
            )
            found += sum(part.size for part in parameter_shards(model.chunks, layout) if part.primary)
    assert found == parameters
