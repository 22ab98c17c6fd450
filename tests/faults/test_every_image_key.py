"""Every key of a GAN's and of a classifier's config changes what is built, drawn, trained, judged or written.

As `test_every_key` for text. Keys that the loop around all trainers alone reads (`SHARED`) are shown there.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gan_configs import gan_tree
from image_shards import build_image_shards
from test_every_key import ELSEWHERE, Effect, alike, two

from pretrain.config.node import dotted
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import CnnConfig, GanConfig

WORKER = Path(__file__).with_name("every_image_key_worker.py")
Entries = dict[str, tuple[Any, ...]]

PENALISED = {"loss__r1": 10.0}
LONG = {"run__steps": 20}
STEEP = {"optimizer__eps": 1e-2}
ZERO = {"parallel__generator_stage": 1, "parallel__discriminator_stage": 1}
GAN: Entries = {
    "run.seed": ("images", 1, 2),
    "run.steps": ("final", 3, 30, "losses"),
    "model.architecture": ("shapes", "dcgan", "resnet"),
    "model.image_size": ("refused", 16, 32),
    "model.latent_size": ("shapes", 8, 4),
    "model.generator_channels": ("shapes", 2, 3),
    "model.discriminator_channels": ("shapes", 2, 3),
    "model.max_channels": ("shapes", 512, 4),
    "model.conditional": ("shapes", False, True),
    "model.batch_norm": ("shapes", False, True),
    "model.spectral_norm": ("shapes", False, True),
    "model.init_std": ("weights", None, 0.1, "shapes"),
    "model.ema_decay": ("average", 0.0, 0.9, "losses"),
    "batch.global_size": ("counted", 8, 4),
    "batch.micro_size": ("micro_batches", None, 2, "weights"),
    "parallel.generator_stage": ("zero", 0, 3, "weights"),
    "parallel.discriminator_stage": ("zero", 1, 2, "weights"),
    "parallel.offload_optimizer": ("zero", False, True, "weights", ZERO),
    "optimizer.lr": ("losses", 1e-3, 1e-2, "weights"),
    "optimizer.discriminator_lr": ("losses", None, 1e-2, "weights"),
    "optimizer.beta1": ("losses", 0.0, 0.5, "weights"),
    "optimizer.beta2": ("losses", 0.99, 0.5, "weights"),
    "optimizer.eps": ("losses", 1e-8, 1e-1, "weights"),
    "optimizer.clip_grad": ("losses", 0.0, 0.01, "weights", STEEP),
    "loss.kind": ("losses", "non_saturating", "hinge", "weights"),
    "loss.discriminator_steps": ("counted", 1, 2, "weights"),
    "loss.gradient_penalty": ("losses", 0.0, 10.0, "weights"),
    "loss.r1": ("losses", 0.0, 10.0, "weights"),
    "loss.r2": ("losses", 0.0, 10.0, "weights"),
    "loss.penalty_every": ("losses", None, 2, "weights", PENALISED),
    "loss.augment": ("losses", [], ["translation"], "weights"),
    "data.train": ("images", "SHARDS", "OTHER", "weights"),
    "precision": ("dtype", "fp32", "bf16", "shapes", ZERO),
    "eval.samples": ("grid", 4, 16, "losses"),
    "health.on_collapse": ("collapse", "report", "stop", "losses"),
}
ROLL_BACK = {"health__on_spike": "rollback", "checkpoint__every": 10}
CNN: Entries = {
    "run.seed": ("images", 1, 2),
    "run.steps": ("rates", 10, 20, "weights"),
    "model.width": ("shapes", 2, 4),
    "model.stages": ("shapes", 1, 2),
    "model.features": ("shapes", 4, 6),
    "batch.global_size": ("images", 4, 8),
    "batch.micro_size": ("micro_batches", 2, 4, "rates"),
    "optimizer.lr": ("losses", 1e-3, 1e-2, "weights"),
    "optimizer.beta1": ("losses", 0.9, 0.5, "weights"),
    "optimizer.beta2": ("losses", 0.95, 0.5, "weights"),
    "optimizer.eps": ("losses", 1e-8, 1e-1, "weights"),
    "optimizer.weight_decay": ("losses", 0.0, 10.0, "weights"),
    "optimizer.clip_grad": ("losses", 0.0, 0.01, "weights", STEEP),
    "schedule.kind": ("rates", "cosine", "linear", "weights", LONG),
    "schedule.warmup_steps": ("rates", 0, 4, "weights", LONG),
    "schedule.min_lr": ("rates", None, 0.0, "weights", LONG),
    "schedule.decay_steps": ("rates", None, 10, "weights", LONG),
    "data.train": ("images", "SHARDS", "OTHER", "weights"),
    "data.validation": ("validation", None, ["OTHER"], "losses"),
    "data.shift": ("images", 0, 2, "weights"),
    "precision": ("losses", "fp32", "bf16", "shapes"),
    "health.on_nonfinite": ("nonfinite", "stop", "skip", "losses"),
    "health.max_skips": ("nonfinite", 1, 3, "losses", {"health__on_nonfinite": "skip"}),
    "health.on_spike": ("spikes", "report", "rollback", "losses", {"health__spike_window": 8}),
    "health.spike_window": ("spikes", 8, 12, "losses"),
    "health.spike_threshold": ("spikes", 5.0, 1e6, "losses", {"health__spike_window": 8}),
    "health.max_rollbacks": ("rollback", 1, 2, "losses", ROLL_BACK),
}
SHARED = tuple(ELSEWHERE)
UNSEEN = {
    "model.kind": "it decides which of the trainers is built; any other name is refused",
    "optimizer.kind": "there is one so far; another one trains and resumes in test_extension",
}
KINDS: dict[str, tuple[type[Any], Entries]] = {"gan": (GanConfig, GAN), "cnn": (CnnConfig, CNN)}
SEEN: dict[tuple[str, str], Effect] = {
    (kind, key): two(key, *entry[:-1], **entry[-1]) if isinstance(entry[-1], dict) else two(key, *entry)
    for kind, (_, entries) in KINDS.items()
    for key, entry in entries.items()
}
CLASSIFIER: dict[str, Any] = {
    "run": {"steps": 10},
    "model": {"kind": "cnn", "width": 2, "stages": 1, "features": 4},
    "batch": {"global_size": 4, "micro_size": 2},
    "optimizer": {"lr": 1e-3},
}
SMALL = {"model__generator_channels": 2, "model__discriminator_channels": 2, "eval__samples": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_an_entry(kind: str) -> None:
    config, entries = KINDS[kind]
    keys = {dotted(path) for path, _ in leaf_keys(config)}
    assert sorted([*entries, *SHARED, *(UNSEEN.keys() & keys)]) == sorted(keys)


def write(folder: Path, kind: str, keys: dict[str, Any]) -> str:
    tree: dict[str, Any] = gan_tree(**SMALL) if kind == "gan" else {k: dict(v) for k, v in CLASSIFIER.items()}
    for name, value in {"data__train": "SHARDS", "run__dir": str(folder / "run"), **keys}.items():
        section, _, key = name.partition("__")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[name] = value
    text = yaml.safe_dump(tree)
    for place in ("SHARDS", "OTHER"):
        text = text.replace(place, str(folder.parent / place))
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return str(folder / "config.yaml")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Observations of both configs of every entry, made by one process."""
    folder = tmp_path_factory.mktemp("every-image-key")
    build_image_shards(folder / "SHARDS", 24, size=16)
    build_image_shards(folder / "OTHER", 24, size=16, seed=9)
    configs = {}
    for number, ((kind, key), effect) in enumerate(SEEN.items()):
        for which, keys in (("first", effect.first), ("second", effect.second)):
            configs[f"{kind} {key} {which}"] = write(folder / f"{number}-{which}", kind, keys)
    argument = json.dumps({"output": str(folder / "seen.json"), "configs": configs})
    command = [sys.executable, str(WORKER), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), SEEN)
def test_key_shows_in_training(seen: dict[str, Any], kind: str, key: str) -> None:
    effect = SEEN[kind, key]
    first, second = (seen[f"{kind} {key} {which}"] for which in ("first", "second"))
    assert effect.differs in first or effect.differs in second, (first.get("refused"), second.get("refused"))
    assert not alike(first.get(effect.differs), second.get(effect.differs)), first.get(effect.differs)
    if effect.agrees:
        assert first[effect.agrees] == second[effect.agrees]


@pytest.mark.slow
def test_verdicts_on_a_game_name_what_happened(seen: dict[str, Any]) -> None:
    reported, stopped = (seen[f"gan health.on_collapse {which}"] for which in ("first", "second"))
    assert reported["collapse"] == reported["alike"] == ["done", 1]
    ended, said = stopped["collapse"]
    assert said is None
    assert ended.startswith("HealthError: step 4: D has won: its loss averages -0.98, G learns")
    assert "a larger loss.r1, loss.augment or a smaller optimizer.discriminator_lr may help" in ended
    assert stopped["alike"][0].startswith(
        "HealthError: step 3: samples are nearly alike: they differ by 0 a "
    )
