"""What one step of a run is: batches in, gradients, a verdict, an update out.

Everything that decides the next step is the weights, the optimizer's state, the step number and the memory
of earlier verdicts: samples, learning rate and random streams are functions of these, so a resumed run is the
uninterrupted one.
`train.py` makes a whole run of it.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.counts import counted
from data_tools.typed import natural
from pretrain.agree import first_decides
from pretrain.any_trainer import StepResult
from pretrain.checkpoint import SUSPECT_SINCE, Checkpoint
from pretrain.checkpoint.piece import Piece
from pretrain.config import derived
from pretrain.config.narrow import narrow
from pretrain.config.sections import BertConfig, CorpusConfig, GptConfig, TextConfig
from pretrain.config.stages import samples_between, samples_until, tokens_until
from pretrain.data.feed import NO_VALIDATION, AnyBatch, TrainingFeed, ValidationFeed
from pretrain.data.growing import grow
from pretrain.data.kinds import open_data
from pretrain.flops import flops_per_token, peak_flops
from pretrain.gate import Gate
from pretrain.health.gather import gather_texts
from pretrain.health.judge import go_back, judge, refuse_nonfinite, require_rollbacks_left
from pretrain.health.nonfinite import find_nonfinite
from pretrain.health.plateau import Plateau
from pretrain.health.pulse import Phase
from pretrain.health.replicas import ReplicaCheck
from pretrain.health.spikes import Memory
from pretrain.health.text_step import TextStep
from pretrain.init_from import open_start, require_tokenizer
from pretrain.launch import World
from pretrain.layout import build_layout
from pretrain.model import LocalLoss, Model, seed_step
from pretrain.models.logical import VOCABULARY
from pretrain.optimizer import Optimizer
from pretrain.restore import TOKENIZER_FOLDER
from pretrain.schedule import learning_rate
from pretrain.scoring import score
from pretrain.warm_start import start_from

log = logging.getLogger(__name__)


class Trainer:
    """Model, optimizer and data of one run on this rank."""

    def __init__(
        self, config: TextConfig, world: World, gate: Gate | None = None, own: Checkpoint | None = None
    ) -> None:
        """Build everything.

        Args:
            config: of the run.
            world: all its ranks.
            gate: of the run.
            own: the run's own checkpoint, which is loaded next; so `model.init_from` is not read.
        """
        self.config = config
        self.start = open_start(config, own, log.warning, partial(first_decides, world))
        self.gate = gate or Gate(world)
        self.layout = build_layout(world, config.parallel)
        self.data, self.validation = self.open_data()
        self.model = self.build_model()
        self.model.before_reduction(self.gate.reduce)
        self.optimizer = Optimizer(config, self.model)
        self.growing = grow(config, self.data)
        self.memory = Memory()
        self._replica_check = ReplicaCheck(world)
        self._plateau = Plateau(config)
        peak = peak_flops(config, world.device)
        self._peak = peak * world.size if peak else None
        self._stage = self.growing.stage(0)

    def open_data(self) -> tuple[TrainingFeed, ValidationFeed | None]:
        """The training and validation data of the config."""
        return open_data(narrow(self.config, CorpusConfig, "training"))

    def build_model(self) -> Model:
        """The model of the config, with its initial weights or those of the run that it starts from."""
        model = Model(self.config, self.layout, self.data.vocab_size, training=True)
        if self.start is not None and isinstance(self.config, GptConfig | BertConfig):
            require_tokenizer(self.config, self.start, self.data.tokenizer.fingerprint)
            anew = self.config.model.init_embeddings == "random"
            start_from(self.start, model.chunks, self.layout, VOCABULARY if anew else ())
        return model

    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises:
            HealthError: the loss or a gradient is not finite, and the config says to stop. Weights are as
                before the step then.
        """
        batches = self.gate.fetch(lambda: self.batches(step))
        self._seed(step)
        self._stage = self.growing.stage(step)
        if step == self._stage.first:
            self.memory = self.memory.without_losses()  # other sequences have other losses
        local = self.model.backward(batches)
        norm = self.optimizer.gradient_norm()
        # One message carries the loss and every rank's norm: all ranks judge the same.
        totals, (norms,) = local.over_world(norm)
        loss = totals.loss
        verdict = judge(self.config, self.memory, loss, norms)
        rate = learning_rate(self.config, step)
        if verdict.update:
            self.gate.mark(Phase.UPDATE)
            self.optimizer.update(rate, norm)
        window = derived.spike_window(self.config)
        self.memory = self.memory.after(loss, updated=verdict.update, window=window)
        if not verdict.finite:
            self._refuse(step, batches, local, f"loss {loss}, gradient norm {norms}")
        for warning in self._plateau.after(step, totals):
            log.warning("step %d: %s", step + 1, warning)
        tokens = tokens_until(self.config, step + 1)
        # Of one batch, so not under the names that an evaluation gives its results.
        more = {f"training_{name}": value for name, value in totals.metrics.items()}
        metrics = {"loss": loss, **more, "grad_norm": norm, "lr": rate, "tokens": tokens}
        if self.memory.rollbacks:
            metrics["rollbacks"] = self.memory.rollbacks
        return StepResult(loss, metrics, self._stage.tokens_per_step, verdict.update, verdict.spike)

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """Tokens per second of the whole world, and MFU where the device's peak is known."""
        rate = result.units / seconds
        if self._peak is None:
            return {"tokens_per_second": rate}
        flops = flops_per_token(self.config, self.data.vocab_size, self._stage.batch.sequence_length)
        return {"tokens_per_second": rate, "mfu": rate * flops / self._peak}

    def batches(self, step: int) -> list[AnyBatch]:
        """This rank's micro-batches of step `step`, counted from 0."""
        return self.growing.batches(step, self._jumped(step), self.layout.data_rank, self.layout.data_size)

    def _jumped(self, step: int) -> int:
        """Samples that were jumped over before step `step`, in the order that it draws from."""
        return self.memory.jumped(step, self.growing.stage(step).order)

    def _seed(self, step: int) -> None:
        seed_step(self.config.run.seed, step, self.layout)

    def _refuse(self, step: int, batches: list[AnyBatch], local: LocalLoss, what: str) -> None:
        """Stop, or say that the update is skipped, with the place where numbers first went wrong."""
        norm = self.optimizer.gradient_norm
        where = find_nonfinite(TextStep(self.model, batches, local, lambda: self._seed(step), norm))
        samples = self.growing.samples(step, self._jumped(step))
        what = f"step {step + 1} (samples {samples.start} to {samples.stop - 1}): {what}"
        refuse_nonfinite(self.config, self.memory, what, where)

    @property
    def may_roll_back(self) -> bool:
        """With health.on_spike: rollback."""
        return self.config.health.on_spike == "rollback"

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint and jump over the samples seen since then.

        Args:
            checkpoint: the last good one of this run.
            spike: step, counted from 0, whose loss was a spike; its samples are the last to be jumped over.

        Returns:
            Steps done at the checkpoint.

        Raises:
            HealthError: the run has rolled back `health.max_rollbacks` times.
        """
        before = self.memory
        require_rollbacks_left(self.config, before, spike)
        done = self.load(checkpoint)
        since = samples_between(self.config, done, spike + 1)
        self.memory = before.back_to(done, spike, since, self.memory)
        log.warning(
            "rolled back to %s; the samples of steps %d to %d are jumped over",
            checkpoint.path,
            done + 1,
            spike + 1,
        )
        return done

    def check_replicas(self, step: int) -> None:
        """Compare what ranks share after `step` steps.

        Raises:
            HealthError: two ranks hold different bits of the same tensor.
        """
        self._replica_check(step, self.pieces())

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss on the validation data after `step` steps; None where the config has none."""
        if self.validation is None:
            return None
        totals = score(self.model, self.validation, self.gate.validated)
        more = {f"validation_{name}": value for name, value in totals.metrics.items()}
        return {"validation_loss": totals.loss, **more, "tokens": tokens_until(self.config, step)}

    def pieces(self) -> Iterator[Piece]:
        """Weights and optimizer states, this rank's parts."""
        return self.optimizer.pieces()

    def files(self) -> Mapping[str, bytes | Path]:
        """The tokenizer: read now, since the folder may be that of a checkpoint which is deleted one day."""
        folder = self.data.tokenizer_folder
        return {
            f"{TOKENIZER_FOLDER}/{path.relative_to(folder)}": path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def describe(self) -> str:
        """Layout, device and sizes, on one line."""
        return (
            f"{self.layout.describe()}, {self.layout.device}, {self.data.samples_per_epoch} samples an "
            f"epoch, {self._micro_batches()} a step"
        )

    def _micro_batches(self) -> str:
        counts = [each.micro_batches(self.layout.data_size) for each in self.growing.stages]
        return ", then ".join([*map(str, counts[:-1]), counted(counts[-1], "micro-batch")])

    def facts(self) -> dict[str, str]:
        """What the run's status and MLflow's tags say beside the config."""
        return {
            "layout": self.layout.describe(),
            "device": self.layout.device.type,
            "optimizer": self.optimizer.name,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
            "data_fingerprint": self.growing.fingerprint,
            "validation_fingerprint": self.validation.fingerprint if self.validation else NO_VALIDATION,
            **(self.start.origin if self.start else {}),
        }

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors.

        `samples` are those of all orders, trained on or jumped over, before the next step's; `tokens` those
        that were trained on.
        """
        jumped = sum(self.memory.jumped(step, n) for n in range(self.growing.stage(step).order + 1))
        return {
            "step": step,
            "samples": samples_until(self.config, step) + jumped,
            "tokens": tokens_until(self.config, step),
            "updates": self.optimizer.updates,
            "vocab_size": self.data.vocab_size,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
            "data_fingerprint": self.growing.fingerprint,
            "layout": self.layout.describe(),
            "health": self.memory.to_json(),
            **(self.start.origin if self.start else {}),
            SUSPECT_SINCE: self.memory.suspect_since(step),
        }

    def load(self, checkpoint: Checkpoint) -> int:
        """Take over weights, optimizer state and step from a checkpoint of any layout.

        Raises:
            UserError: it is of another model or other data.
        """
        checkpoint.require_data(self.growing.fingerprint)
        pieces = list(self.pieces())
        keys_here = "\n".join(sorted({piece.key for piece in pieces}))
        everyone = gather_texts(self.layout.world, keys_here)
        checkpoint.require_all_read(key for keys in everyone for key in keys.split("\n"))
        checkpoint.load(pieces)
        self.optimizer.updates = checkpoint.part("updates", natural)
        self.memory = checkpoint.part("health", Memory.from_json)
        return checkpoint.step

    def go_back(self, step: int, later: Checkpoint) -> None:
        """As `AnyTrainer.go_back`."""
        self.memory = go_back(self.memory, step, later)
