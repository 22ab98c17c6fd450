"""Draw images from an exported generator: `python generate.py [COUNT [SEED]]` writes samples.png."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from pretrain.config.sections import GanConfig
from pretrain.gan.networks.build import build_generator, shape_of
from pretrain.gan.samples import grid, pixels, sample, save_png

folder = Path(__file__).resolve().parent
config = GanConfig.model_validate_json((folder / "config.json").read_text())
weights = load_file(folder / "generator.safetensors")
channels, classes = (int(weights.pop(name)) for name in ("channels", "classes"))
generator = build_generator(shape_of(config.model, config.loss, channels, classes), seed=0)
generator.load_state_dict(weights)
count, seed = (int(word) for word in [*sys.argv[1:], "16", "0"][:2])
noise = torch.randn(count, config.model.latent_size, generator=torch.Generator().manual_seed(seed))
labels = torch.arange(count) % classes if config.model.conditional else None
save_png(folder / "samples.png", grid(pixels(sample(generator, noise, labels))))
