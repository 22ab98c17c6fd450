"""Small GAN configs for tests."""

from typing import Any

from pretrain.config.sections import GanConfig

SMALL: dict[str, dict[str, Any]] = {
    "run": {"dir": "runs/small", "steps": 6},
    "model": {
        "kind": "gan",
        "architecture": "dcgan",
        "image_size": 16,
        "latent_size": 8,
        "generator_channels": 4,
        "discriminator_channels": 4,
    },
    "batch": {"global_size": 8},
    "optimizer": {"lr": 0.001},
    "data": {"train": "data/small"},
}


def gan_tree(**changes: Any) -> dict[str, dict[str, Any]]:
    """The small config's values; `section__key=value` changes one."""
    tree: dict[str, Any] = {name: dict(section) for name, section in SMALL.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return tree


def gan_config(**changes: Any) -> GanConfig:
    """The small config as an object."""
    return GanConfig.model_validate(gan_tree(**changes))
