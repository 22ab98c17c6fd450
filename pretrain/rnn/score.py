"""The loss of a recurrent model on text: the one function behind validation and `pretrain eval`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.config.sections import RnnConfig
from pretrain.data.transfer import to_device
from pretrain.distributed.world import DistContext
from pretrain.megatron.restore import TOKENIZER_FOLDER, open_saved
from pretrain.rnn.data import LaneData, StreamBatch
from pretrain.rnn.model import Rnn, build_rnn
from pretrain.training.cross_entropy import cross_entropy_in_place


@dataclass(frozen=True)
class NextTokens:
    """Losses of next tokens, summed."""

    nll: float
    """Nats."""
    tokens: int
    squares: float
    """Squared losses, for the standard error."""

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.nll / self.tokens


def losses(model: Rnn, batch: StreamBatch, state_BLC: Tensor) -> tuple[Tensor, Tensor]:
    """Read a batch.

    Args:
        batch: on the CPU.
        state_BLC: after the batch before; fresh rows ignore it.

    Returns:
        Negative log-likelihood of each label, [B, S] float32, 0 where it does not count, and the state after
        the last token.
    """
    device = state_BLC.device
    state_BLC = state_BLC.masked_fill(to_device(batch.fresh, device)[:, None, None], 0)
    tokens, labels, counts = (
        to_device(part, device) for part in (batch.batch.tokens, batch.batch.labels, batch.batch.loss_mask)
    )
    logits_BSV, after_BLC = model(tokens, state_BLC)
    found = cross_entropy_in_place(logits_BSV.flatten(0, 1), labels.flatten()).view(labels.shape)
    return found * counts, after_BLC


@torch.no_grad()
def score_lanes(
    model: Rnn,
    data: LaneData,
    world: DistContext,
    micro_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> NextTokens:
    """Loss of every label of `data`, each once, over all ranks together; the same on every rank.

    Args:
        data: the same on every rank.
        world: all its ranks call this together.
        micro_size: lanes that are read together.
        advance: told the number of batches done on this rank, for a progress bar.
    """
    was_training = model.training
    model.eval()
    state = model.no_state(micro_size)
    total = torch.zeros(3, dtype=torch.float64)
    for batch in data.micro_batches(world.rank, world.size, micro_size):
        found, state = losses(model, batch, state)
        exact = found.double().cpu()
        total += torch.stack([exact.sum(), batch.batch.loss_mask.double().sum(), exact.square().sum()])
        advance(1)
    model.train(was_training)
    dist.all_reduce(total)
    return NextTokens(float(total[0]), int(total[1]), float(total[2]))


@dataclass(frozen=True)
class SavedRnn:
    """A model, ready to read, with the config that made it."""

    checkpoint: Checkpoint
    config: RnnConfig
    tokenizer: Tokenizer
    model: Rnn


def dtype_of(config: RnnConfig) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def load_rnn(path: str | Path, device: torch.device, say: Callable[[str], None] = lambda _: None) -> SavedRnn:
    """Find, verify and load the model of a run folder or a step folder.

    Raises UserError or IntegrityError if the run trained something else or the folder is damaged.
    """
    checkpoint, config = open_saved(path, RnnConfig, "a recurrent model", say)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_FOLDER)
    model = build_rnn(config.model, tokenizer.vocab_size, config.run.seed, dtype_of(config))
    checkpoint.load(
        ShardedTensor.whole(name, parameter.detach()) for name, parameter in model.named_parameters()
    )
    return SavedRnn(checkpoint, config, tokenizer, model.to(device).eval())
