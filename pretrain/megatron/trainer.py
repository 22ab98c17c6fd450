"""The trainer of transformers, whose model megatron-core lays out over the ranks."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import TextConfig
from pretrain.config.stages import samples_between, samples_until, tokens_until
from pretrain.data.dataset import NO_VALIDATION, AnyBatch, TrainingDataset, ValidationDataset
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.health.nonfinite import find_nonfinite
from pretrain.megatron.failed_step import TextStep
from pretrain.megatron.flops import flops_per_token, peak_flops
from pretrain.megatron.init_from import open_init_from
from pretrain.megatron.optimizer import Optimizer
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel, seed_step
from pretrain.megatron.rampup import rampup_dataset
from pretrain.megatron.restore import TOKENIZER_FOLDER
from pretrain.megatron.score import score
from pretrain.training.descent import DescentTrainer, Gradient
from pretrain.training.metric_sums import Plateau
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import StepResult

C = TypeVar("C", bound=TextConfig)

log = logging.getLogger(__name__)


class MegatronTrainer(DescentTrainer[C, AnyBatch], Generic[C]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and what is built."""

    UNIT = "tokens"
    optimizer: Optimizer

    def __init__(
        self,
        config: C,
        world: DistContext,
        step_sync: StepSync | None = None,
        own: Checkpoint | None = None,
    ) -> None:
        """Open the data and build the model and its optimizer.

        Args:
            own: the run's own checkpoint, which is loaded next; then `model.init_from` is not read.
        """
        super().__init__(config, world, step_sync)
        self.start = open_init_from(config, own, log.warning, partial(broadcast_from_rank0, world))
        self.layout = build_parallel_dims(world, config.parallel)
        self.data, self.validation = self.open_data()
        self.model = self.build_model()
        self.model.before_reduction(self.step_sync.reduce)
        self.optimizer = Optimizer(config, self.model)
        self.growing = rampup_dataset(config, self.data)
        self.fingerprint = self.growing.fingerprint
        self.validation_fingerprint = self.validation.fingerprint if self.validation else NO_VALIDATION
        self._plateau = Plateau(config)
        peak = peak_flops(config, world.device)
        self._peak = peak * world.size if peak else None
        self._stage = self.growing.stage(0)

    @abstractmethod
    def open_data(self) -> tuple[TrainingDataset, ValidationDataset[Any] | None]:
        """The training and validation data of the config."""

    @abstractmethod
    def build_model(self) -> PipelineModel:
        """The model of the config, with new weights or with those of the run that weights come from."""

    @property
    def layout_name(self) -> str:
        return self.layout.describe()

    def backward(self, step: int, batches: list[AnyBatch]) -> Gradient:
        self._seed(step)
        self._stage = self.growing.stage(step)
        if step == self._stage.first:
            self.memory = self.memory.without_losses()  # losses at another length cannot be compared
        local = self.model.backward(batches)
        # One message carries the loss and every rank's norm, so all ranks judge the same numbers.
        sums, norms, norm = local.over_world(self.optimizer.gradient_norm())
        for warning in self._plateau.after(step, sums):
            log.warning("step %d: %s", step + 1, warning)
        # These are of one batch, so they do not get the names that an evaluation gives its results.
        more = {f"training_{name}": value for name, value in sums.metrics.items()}
        again = self.optimizer.gradient_norm
        failed = TextStep(self.model, batches, local, lambda: self._seed(step), again)
        where = partial(find_nonfinite, failed)
        return Gradient(sums.loss, norm, norms, more, where)

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """Tokens per second of the whole world, and MFU if the device's peak is known."""
        rate = result.units / seconds
        if self._peak is None:
            return {"tokens_per_second": rate}
        flops = flops_per_token(self.config, self.data.vocab_size, self._stage.batch.sequence_length)
        return {"tokens_per_second": rate, "mfu": rate * flops / self._peak}

    def batches(self, step: int) -> list[AnyBatch]:
        return self.growing.batches(step, self._jumped(step), self.layout.data_rank, self.layout.data_size)

    def _jumped(self, step: int) -> int:
        """Samples that were jumped over before step `step`, in the order that it draws from."""
        return self.memory.jumped(step, self.growing.stage(step).order)

    def _seed(self, step: int) -> None:
        seed_step(self.config.run.seed, step, self.layout)

    def samples(self, step: int) -> range:
        return self.growing.samples(step, self._jumped(step))

    def samples_before(self, step: int) -> int:
        jumped = sum(self.memory.jumped(step, n) for n in range(self.growing.stage(step).order + 1))
        return samples_until(self.config, step) + jumped

    def samples_between(self, first: int, stop: int) -> dict[int, range]:
        return samples_between(self.config, first, stop)

    def units_until(self, steps: int) -> int:
        return tokens_until(self.config, steps)

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss on the validation data after `step` steps; None if the config has none."""
        if self.validation is None:
            return None
        sums = score(self.model, self.validation, self.step_sync.validated)
        more = {f"validation_{name}": value for name, value in sums.metrics.items()}
        return {"validation_loss": sums.loss, **more, "tokens": tokens_until(self.config, step)}

    def files(self) -> Mapping[str, bytes | Path]:
        """The tokenizer. It is read now: the folder may belong to a checkpoint that is deleted later."""
        folder = self.data.tokenizer_folder
        return {
            f"{TOKENIZER_FOLDER}/{path.relative_to(folder)}": path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def describe(self) -> str:
        return (
            f"{self.layout.describe()}, {self.layout.device}, {self.data.samples_per_epoch} samples an "
            f"epoch, {self._micro_batches()} a step"
        )

    def _micro_batches(self) -> str:
        counts = [each.micro_batches(self.layout.data_size) for each in self.growing.stages]
        return ", then ".join([*map(str, counts[:-1]), counted(counts[-1], "micro-batch")])

    def facts(self) -> dict[str, str]:
        own = {"optimizer": self.optimizer.name, "tokenizer_fingerprint": self.data.tokenizer.fingerprint}
        return {**super().facts(), **own, **(self.start.origin if self.start else {})}

    def state(self, step: int) -> dict[str, Any]:
        return {
            **super().state(step),
            "vocab_size": self.data.vocab_size,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
            "layout": self.layout_name,
            **(self.start.origin if self.start else {}),
        }
