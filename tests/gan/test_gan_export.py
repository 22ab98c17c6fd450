"""A generator outside of its run: what is exported draws the same images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_configs import gan_config
from PIL import Image

from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import UserError
from pretrain.gan.export import export_generator
from pretrain.gan.networks.build import build_generator, shape_of
from pretrain.gan.restore import load_generator
from pretrain.gan.samples import grid, pixels, sample

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a checkpoint of random weights, as the trainer names them."""
    config = gan_config(model__conditional=True, model__batch_norm=True)
    network = build_generator(shape_of(config.model, config.loss, 1, 3), 5)
    pieces = [
        ShardedTensor.whole(f"ema.generator.{name}", p.detach()) for name, p in network.named_parameters()
    ]
    pieces += [ShardedTensor.whole(f"generator.{name}", p.detach()) for name, p in network.named_parameters()]
    pieces += [ShardedTensor.whole(f"generator.{name}", buffer) for name, buffer in network.named_buffers()]
    files = {"config.resolved.yaml": config_to_yaml(config).encode()}
    saver = Saver(tmp_path / "run", CheckpointConfig(), 0, 1, LocalCoordinator())
    saver.save(3, pieces, {"channels": 1, "classes": 3}, files)  # type: ignore[arg-type]
    return tmp_path / "run"


@pytest.mark.slow
def test_the_program_in_the_folder_draws_what_the_run_draws(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_generator(str(run), str(out))
    assert len((out / "generate.py").read_text().splitlines()) <= 25
    command = [sys.executable, str(out / "generate.py"), "5", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved = load_generator(run, CPU, 0)
    noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    expected = grid(pixels(sample(saved.network, noise, torch.arange(5) % 3)))
    found = np.asarray(Image.open(out / "samples.png"))
    # Another program may have other threads: where a brightness lies at a half, it may turn.
    assert found.shape == expected.shape and abs(found.astype(int) - expected).max() <= 1
    with pytest.raises(UserError, match="is there already"):
        export_generator(str(run), str(out))


def test_the_average_has_batch_statistics_of_its_own(run: Path) -> None:
    """The checkpoint holds those of the live network, here still 0 and 1."""
    average = load_generator(run, CPU, 0).network.state_dict()
    live = load_generator(run, CPU, 0, average=False).network.state_dict()
    names = [name for name in average if name.endswith("running_mean")]
    assert names
    for name in names:
        assert torch.equal(live[name], torch.zeros_like(live[name])), "as in the checkpoint"
        assert float(average[name].abs().max()) > 1e-4
