"""What one step of a run is: batches in, gradients, a verdict, an update out.

Everything that decides the next step is the weights, the optimizer's state and the step number: samples,
learning rate and random streams are functions of the step, so a resumed run is the uninterrupted one.
`train.py` makes a whole run of it.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

from pretrain.checkpoint import Checkpoint
from pretrain.config import derived
from pretrain.config.sections import Config
from pretrain.data.text import TrainingData, ValidationData
from pretrain.errors import HealthError, UserError
from pretrain.launch import World
from pretrain.layout import build_layout
from pretrain.model import LossSum, Model, seed_step
from pretrain.optimizer import Optimizer
from pretrain.schedule import learning_rate
from pretrain.scoring import score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every rank."""

    loss: LossSum
    gradient_norm: float
    learning_rate: float
    updated: bool
    """False where the step was skipped because a number was not finite."""


class Trainer:
    """Model, optimizer and data of one run on this rank."""

    def __init__(self, config: Config, world: World) -> None:
        self.config = config
        self.layout = build_layout(world, config.parallel)
        self.data = TrainingData.from_config(config)
        self.validation = ValidationData.from_config(config)
        self.model = Model(config, self.layout, self.data.vocab_size, training=True)
        self.optimizer = Optimizer(config, self.model)
        micro_batches = derived.micro_batches(config, self.layout.data_size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches
        self.skipped_in_a_row = 0

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.config.batch.global_size * self.config.batch.sequence_length

    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises:
            HealthError: the loss or a gradient is not finite, and the config says to stop. Weights are as
                before the step then.
        """
        seed_step(self.config.run.seed, step, self.layout)
        layout = self.layout
        batches = [
            self.data.batch(step, index, layout.data_rank, layout.data_size)
            for index in range(self.micro_batches)
        ]
        loss = self.model.backward(batches)
        norm = self.optimizer.gradient_norm()
        rate = learning_rate(self.config, step)
        finite = math.isfinite(loss.nll) and math.isfinite(norm)
        if finite:
            self.optimizer.update(rate, norm)
            self.skipped_in_a_row = 0
        else:
            self._judge_nonfinite(step, loss, norm)
        return StepResult(loss, norm, rate, finite)

    def _judge_nonfinite(self, step: int, loss: LossSum, norm: float) -> None:
        first = step * self.config.batch.global_size
        what = (
            f"step {step + 1}: loss {loss.mean}, gradient norm {norm} "
            f"(samples {first} to {first + self.config.batch.global_size - 1})"
        )
        self.skipped_in_a_row += 1
        if self.config.health.on_nonfinite == "stop":
            raise HealthError(f"{what}: not finite; the weights were not touched")
        if self.skipped_in_a_row > derived.max_skips(self.config):
            raise HealthError(f"{what}: not finite, {self.skipped_in_a_row} steps in a row; the run stops")
        log.warning("%s: not finite; this step's update is skipped", what)

    def validate(self) -> LossSum | None:
        """Loss on the validation data; None where the config has none."""
        return None if self.validation is None else score(self.model, self.validation)

    def facts(self) -> dict[str, str]:
        """What the run's status and MLflow's tags say beside the config."""
        return {
            "layout": self.layout.describe(),
            "device": self.layout.device.type,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
            "data_fingerprint": self.data.fingerprint,
        }

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return {
            "step": step,
            "samples": step * self.config.batch.global_size,
            "tokens": step * self.tokens_per_step,
            "updates": self.optimizer.updates,
            "vocab_size": self.data.vocab_size,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
            "data_fingerprint": self.data.fingerprint,
            "layout": self.layout.describe(),
        }

    def load(self, checkpoint: Checkpoint) -> int:
        """Take over weights, optimizer state and step from a checkpoint of any layout.

        Raises:
            UserError: it is of another model or other data.
        """
        saved = checkpoint.state.get("data_fingerprint")
        if saved != self.data.fingerprint:
            raise UserError(
                f"{checkpoint.path}: was trained on other data: fingerprint {str(saved)[:16]}, data.train "
                f"has {self.data.fingerprint[:16]}; going on would repeat or lose samples. Give the shards "
                "back, or choose another run.dir"
            )
        checkpoint.load(self.optimizer.pieces())
        self.optimizer.updates = int(checkpoint.state["updates"])
        return checkpoint.step
