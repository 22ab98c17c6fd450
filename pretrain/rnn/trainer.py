"""The trainer of recurrent language models: truncated back-propagation through time with carried state.

Each rank carries the state of its rows of the batch from step to step. It is saved with the weights, as
shards of one tensor over all rows, so that any number of ranks can resume the run.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.config.sections import RnnConfig
from pretrain.data.dataset import NO_VALIDATION
from pretrain.megatron.restore import TOKENIZER_FOLDER
from pretrain.rnn.data import StreamBatch, open_data
from pretrain.rnn.model import Rnn, build_rnn
from pretrain.rnn.score import dtype_of, losses, score_lanes
from pretrain.seeds import stream_seed
from pretrain.training.data_parallel import DataParallelTrainer
from pretrain.training.trainer import StepResult


class RnnTrainer(DataParallelTrainer[RnnConfig, StreamBatch]):
    """Model, optimizer, data and carried state of one run on this rank."""

    UNIT = "tokens"

    def build_model(self) -> Rnn:
        config, device = self.config, self.world.device
        self.data, self.validation = open_data(config)
        self.fingerprint = self.data.fingerprint
        self.validation_fingerprint = self.validation.fingerprint if self.validation else NO_VALIDATION
        self.model = build_rnn(config.model, self.data.vocab_size, config.run.seed, dtype_of(config)).to(
            device
        )
        no_state = self.model.no_state(config.batch.micro_size)
        self.carried = [no_state.clone() for _ in range(self.micro_batches)]
        """[B, L, C] for each micro-batch: the state after the step before."""
        self._after: dict[int, Tensor] = {}
        """The same after the current step."""
        return self.model

    @property
    def units(self) -> int:
        return self.config.batch.global_size * self.config.batch.sequence_length

    def batch(self, step: int, micro_batch: int, jumped: int = 0) -> StreamBatch:
        """This rank's rows of a step that make up this micro-batch."""
        return self.data.batch(step, micro_batch, self.world.rank, self.world.size, jumped)

    def reseed(self, step: int) -> None:
        """Seed dropout as a function of (seed, step, rank)."""
        if self.config.model.dropout:
            seed = stream_seed(self.config.run.seed, "dropout", step, self.world.rank)
            torch.default_generator.manual_seed(seed)
            if self.world.device.type == "cuda":
                torch.cuda.manual_seed(seed)

    def step(self, step: int) -> StepResult:
        """As `DataParallelTrainer.step`.

        After a step whose numbers are not finite, no state is carried on: it would spoil later steps.
        """
        result = super().step(step)
        finite = math.isfinite(result.loss) and math.isfinite(result.metrics["grad_norm"])
        for index, state in enumerate(self.carried):
            state.copy_(self._after[index]) if finite else state.zero_()
        return result

    def inputs(self, micro_batch: int) -> Sequence[tuple[str, Tensor]]:
        """The state that the micro-batch's rows carry."""
        return [("carried state", self.carried[micro_batch])]

    def losses(self, batch: StreamBatch, micro_batch: int) -> Tensor:
        """Losses of the next tokens. Gradients do not flow back into the carried state."""
        found, after = losses(self.model, batch, self.carried[micro_batch])
        self._after[micro_batch] = after.detach()
        return found.sum()

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss on the validation data after `step` steps; None if the config has none."""
        if self.validation is None:
            return None
        micro_size = self.config.batch.micro_size
        scored = score_lanes(self.model, self.validation, self.world, micro_size, self.step_sync.validated)
        return {"validation_loss": scored.loss, "tokens": step * self.units}

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """As `DataParallelTrainer.roll_back`; after the jump no state is carried on."""
        done = super().roll_back(checkpoint, spike)
        for state in self.carried:
            state.zero_()
        return done

    def pieces(self) -> Iterator[ShardedTensor]:
        """Weights and optimizer state, which all ranks share, and the state of this rank's rows."""
        yield from super().pieces()
        shape = (self.config.batch.global_size, *self.model.state_shape)
        for micro_batch, state in enumerate(self.carried):
            rows = self.data.rows(micro_batch, self.world.rank, self.world.size)
            box = (len(rows), *self.model.state_shape)
            yield ShardedTensor(
                "carried_state", shape, (rows.start, 0, 0), box, None, state, "optimizer", True
            )

    def state(self, step: int) -> dict[str, Any]:
        return {
            **super().state(step),
            "vocab_size": self.data.vocab_size,
            "tokenizer_fingerprint": self.data.tokenizer.fingerprint,
        }

    def files(self) -> dict[str, Path]:
        return {TOKENIZER_FOLDER: self.data.tokenizer_folder}

    def facts(self) -> dict[str, str]:
        return {**super().facts(), "tokenizer_fingerprint": self.data.tokenizer.fingerprint}

    @property
    def epoch(self) -> str:
        return counted(self.data.samples_per_epoch, "sequence")
