"""What one step of a classifier's run is: images in, gradients, a verdict, an update out.

Everything that decides the next step is the weights, AdamW's state, the step number and the memory of earlier
verdicts: images and their shifts are functions of these, so a resumed run is the uninterrupted one. Ranks
share the images of a step; gradients are summed over them in one message.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from pretrain.any_trainer import StepResult
from pretrain.checkpoint import Checkpoint, Piece
from pretrain.classifier import Classifier, Scores, score_images
from pretrain.config import derived
from pretrain.config.sections import CnnConfig
from pretrain.data.images import ImageData, ImageSource, open_images
from pretrain.data.order import micro_batch_samples
from pretrain.errors import UserError
from pretrain.gate import Gate
from pretrain.health.judge import judge, refuse_nonfinite, require_rollbacks_left
from pretrain.health.pulse import Phase
from pretrain.health.replicas import ReplicaCheck
from pretrain.health.spikes import Memory
from pretrain.launch import World
from pretrain.models.cnn import build_cnn, shifted
from pretrain.schedule import learning_rate
from pretrain.seeds import stream_seed

MOMENTS = ("exp_avg", "exp_avg_sq")

log = logging.getLogger(__name__)


def open_training_images(config: CnnConfig) -> ImageData:
    """The images of `data.train`.

    Raises UserError or IntegrityError, naming the path; UserError for images without two classes to tell
    apart.
    """
    sources = [(source.path, source.weight) for source in config.data.train]
    data = ImageData.open(sources, config.run.seed, config.batch.global_size, config.batch.micro_size)
    if data.num_classes < 2:
        what = f"all of class {data.classes[0]!r}" if data.num_classes else "without labels"
        raise UserError(f"data.train: {sources[0][0]}: its images are {what}; a classifier needs two classes")
    return data


def open_validation_images(config: CnnConfig, data: ImageData) -> tuple[ImageSource, ...]:
    """The images of `data.validation`, which must be like those of training; none where it names none."""
    paths = [source.path for source in config.data.validation or ()]
    readers = open_images(paths, "data.validation", data.sources[0].reader) if paths else []
    return tuple(ImageSource(reader) for reader in readers)


class CnnTrainer:
    """Model, optimizer and images of one run on this rank."""

    def __init__(self, config: CnnConfig, world: World, gate: Gate | None = None) -> None:
        self.config, self.world = config, world
        self.gate = gate or Gate(world)
        self.data = open_training_images(config)
        self.validation = open_validation_images(config, self.data)
        model = build_cnn(
            config.model, self.data.channels, self.data.size, self.data.num_classes, config.run.seed
        )
        self.classifier = Classifier(model.to(world.device), config.precision, world.device)
        self.optimizer = _optimizer(config, self.classifier)
        micro_batches = derived.micro_batches(config, world.size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches
        self.updates = 0
        self.memory = Memory()
        self._replica_check = ReplicaCheck(world)

    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises:
            HealthError: the loss or a gradient is not finite, and the config says to stop. Weights are as
                before the step then.
        """
        size = self.config.batch.global_size
        first = self.memory.first_sample(step, size)
        batches = self.gate.fetch(lambda: self.batches(first // size))
        loss, norm = self._backward(batches)
        verdict = judge(self.config, self.memory, loss, norm)
        rate = learning_rate(self.config, step)
        if verdict.update:
            self.gate.mark(Phase.UPDATE)
            self._update(rate, norm)
        window = derived.spike_window(self.config)
        self.memory = self.memory.after(loss, updated=verdict.update, window=window)
        if not verdict.finite:
            what = (
                f"step {step + 1} (samples {first} to {first + size - 1}): loss {loss}, gradient norm {norm}"
            )
            refuse_nonfinite(self.config, self.memory, what)
        metrics = {"loss": loss, "grad_norm": norm, "lr": rate, "images": (step + 1) * size}
        if self.memory.rollbacks:
            metrics["rollbacks"] = self.memory.rollbacks
        return StepResult(loss, metrics, size, verdict.update, verdict.spike)

    def _backward(self, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Mean loss of a global batch and the norm of its gradient, left in the parameters."""
        self.optimizer.zero_grad(set_to_none=False)
        total = torch.zeros((), dtype=torch.float64)
        for images, labels in batches:
            losses = functional.cross_entropy(self.classifier.logits(images), labels, reduction="sum")
            (losses / self.config.batch.global_size).backward()  # type: ignore[no-untyped-call]
            total += losses.detach().double().cpu()
        self.gate.reduce()
        dist.all_reduce(total)
        gradients = [
            parameter.grad for parameter in self.classifier.parameters() if parameter.grad is not None
        ]
        flat = torch.cat([gradient.view(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(total) / self.config.batch.global_size, float(flat.double().norm())

    def batches(self, position: int) -> list[tuple[Tensor, Tensor]]:
        """This rank's micro-batches of global batch `position`."""
        return [self.batch(position, index) for index in range(self.micro_batches)]

    def batch(self, position: int, micro_batch: int) -> tuple[Tensor, Tensor]:
        """This rank's images, uint8 [B, C, H, W], and labels, int64 [B], on its device."""
        ids = micro_batch_samples(
            step=position,
            micro_batch=micro_batch,
            rank=self.world.rank,
            size=self.world.size,
            global_size=self.config.batch.global_size,
            micro_size=self.config.batch.micro_size,
        )
        images, labels = self.data.images(ids)
        assert labels is not None
        if self.config.data.shift:
            keys = [stream_seed(self.config.run.seed, "shift", sample) for sample in ids]
            images = shifted(images, self.config.data.shift, keys)
        return images.to(self.world.device), labels.to(self.world.device)

    def _update(self, rate: float, norm: float) -> None:
        clip = self.config.optimizer.clip_grad
        if clip and norm > clip:
            for parameter in self.classifier.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_(clip / (norm + 1e-6))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.updates += 1

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """Images per second of the whole world."""
        return {"images_per_second": result.units / seconds}

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss and accuracy on the validation images after `step` steps; None where the config has none."""
        if not self.validation:
            return None
        scores = Scores()
        for source in self.validation:
            scores += score_images(self.classifier, source, self.world)
        return {
            "validation_loss": scores.mean_loss,
            "accuracy": scores.accuracy,
            "images": step * self.config.batch.global_size,
        }

    def check_replicas(self, step: int) -> None:
        """Compare what ranks share after `step` steps; raises HealthError naming what differs."""
        self._replica_check(step, self.pieces())

    @property
    def may_roll_back(self) -> bool:
        """With health.on_spike: rollback."""
        return self.config.health.on_spike == "rollback"

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint and jump over the samples up to step `spike`, from 0; returns steps done.

        Raises HealthError after `health.max_rollbacks` rollbacks.
        """
        before = self.memory
        require_rollbacks_left(self.config, before, spike)
        done = self.load(checkpoint)
        self.memory = before.back_to(done, spike, self.config.batch.global_size, self.memory)
        skipped = self.memory.skipped[-1]
        log.warning(
            "rolled back to %s; images %d to %d are jumped over",
            checkpoint.path,
            skipped.first,
            skipped.stop - 1,
        )
        return done

    def pieces(self) -> Iterator[Piece]:
        """Weights and both moments of AdamW; every rank holds all, and rank 0 writes them."""
        owner = self.world.is_first
        for name, parameter in self.classifier.named_parameters():
            yield Piece.whole(name, parameter.detach(), owner=owner)
            for moment in MOMENTS:
                state = self.optimizer.state[parameter][moment]
                yield Piece.whole(f"optimizer.{moment}.{name}", state, "optimizer", owner)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return {
            "step": step,
            "images": step * self.config.batch.global_size,
            "updates": self.updates,
            "data_fingerprint": self.data.fingerprint,
            "channels": self.data.channels,
            "image_size": self.data.size,
            "classes": list(self.data.classes),
            "health": self.memory.to_json(),
        }

    def files(self) -> dict[str, Path]:
        """None."""
        return {}

    def load(self, checkpoint: Checkpoint) -> int:
        """Take over weights, optimizer state and step; returns the steps done.

        Raises:
            UserError: it is of another model or other images.
        """
        checkpoint.require_data(self.data.fingerprint, "images")
        pieces = list(self.pieces())
        checkpoint.require_all_read(piece.key for piece in pieces)
        checkpoint.load(pieces)
        self.updates = int(checkpoint.state["updates"])
        for state in self.optimizer.state.values():
            state["step"].fill_(self.updates)
        self.memory = Memory.from_json(checkpoint.state["health"])
        return checkpoint.step

    def facts(self) -> dict[str, str]:
        """What the run's status and MLflow's tags say beside the config."""
        return {
            "layout": f"DP{self.world.size}" if self.world.size > 1 else "one process",
            "device": self.world.device.type,
            "data_fingerprint": self.data.fingerprint,
        }

    def describe(self) -> str:
        """Layout, device and sizes, on one line."""
        parameters = sum(parameter.numel() for parameter in self.classifier.parameters())
        return (
            f"{self.facts()['layout']}, {self.world.device}, {parameters:,} parameters, "
            f"{self.data.samples_per_epoch:,} images of {self.data.num_classes} classes an epoch, "
            f"{self.micro_batches} micro-batches a step"
        )


def _optimizer(config: CnnConfig, classifier: Classifier) -> torch.optim.AdamW:
    """AdamW with its state made, so that a checkpoint can be loaded before the first step."""
    settings = config.optimizer
    matrices = [parameter for parameter in classifier.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in classifier.parameters() if parameter.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(groups, settings.lr, betas, settings.eps)
    for parameter in classifier.parameters():
        parameter.grad = torch.zeros_like(parameter)
        optimizer.state[parameter] = {name: torch.zeros_like(parameter) for name in MOMENTS}
        optimizer.state[parameter]["step"] = torch.zeros((), dtype=torch.float32)
    return optimizer
