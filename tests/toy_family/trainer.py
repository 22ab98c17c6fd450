"""Fitting a polynomial, with what other models have that every rank holds whole."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.data.dataset import NO_VALIDATION
from pretrain.data.order import micro_batch_samples
from pretrain.data.transfer import to_device
from pretrain.errors import UserError
from pretrain.training.data_parallel import DataParallelTrainer

from .config import PolynomialConfig


def read_points(config: PolynomialConfig) -> Tensor:
    """[points, 2]; raises UserError where the file is none of points."""
    try:
        rows = [
            [float(word) for word in line.split()]
            for line in Path(config.data.train).read_text().splitlines()
        ]
        return torch.tensor(rows).view(-1, 2)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{config.data.train}: {error}", "data.train") from None


class PolynomialTrainer(DataParallelTrainer[Any, Tensor]):
    """Model, optimizer and points of one run on this rank."""

    UNIT = "points"

    def build_model(self) -> torch.nn.Linear:
        self.points = read_points(self.config)
        self.fingerprint = hashlib.sha256(self.points.numpy().tobytes()).hexdigest()
        self.validation_fingerprint = NO_VALIDATION
        self.model = torch.nn.Linear(self.config.model.degree, 1)
        torch.nn.init.zeros_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        return self.model

    @property
    def units(self) -> int:
        return int(self.config.batch.global_size)

    def batch(self, step: int, micro_batch: int, jumped: int = 0) -> Tensor:
        batch = self.config.batch
        samples = micro_batch_samples(
            step=step,
            micro_batch=micro_batch,
            rank=self.world.rank,
            size=self.world.size,
            global_size=batch.global_size,
            micro_size=batch.micro_size,
            skipped=jumped,
        )
        return self.points[[sample % len(self.points) for sample in samples]]

    def losses(self, batch: Tensor, micro_batch: int) -> Tensor:
        x_B, y_B = to_device(batch, self.world.device).T
        powers_BD = torch.stack([x_B**power for power in range(1, self.config.model.degree + 1)], 1)
        return (self.model(powers_BD)[:, 0] - y_B).square().sum()

    def validate(self, step: int) -> None:
        return None

    @property
    def epoch(self) -> str:
        return f"{len(self.points)} points"
