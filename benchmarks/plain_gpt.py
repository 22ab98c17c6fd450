"""A GPT in plain PyTorch on one device, with nanoGPT's architecture and settings: the independent reference.

Nothing of this project is imported, so agreement with it is evidence. What it is: GPT-2's decoder (Radford et
al. 2019), pre-LN, learned positions, exact GELU, tied head, no biases when `bias` is off; weights N(0, 0.02),
residual projections N(0, 0.02 / sqrt(2 layers)), biases 0; AdamW with decay on matrices alone; linear
warm-up, then a cosine to `min_lr`; each batch is random crops of the text; at the end one loss over the whole
validation set.

    losses, validation_loss = train_plain_gpt(train_ids, val_ids, vocab, Settings(), seed=1)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Settings:
    """nanoGPT's settings for characters of Shakespeare on a CPU."""

    layers: int = 4
    heads: int = 4
    hidden: int = 128
    context: int = 64
    batch: int = 12
    steps: int = 2000
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip: float = 1.0
    dropout: float = 0.0
    bias: bool = False


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); [B, S, hidden] to the same."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.heads, self.dropout = s.heads, s.dropout
        self.norm_1 = nn.LayerNorm(s.hidden, bias=s.bias)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden, bias=s.bias)
        self.attention_out = nn.Linear(s.hidden, s.hidden, bias=s.bias)
        self.norm_2 = nn.LayerNorm(s.hidden, bias=s.bias)
        self.up = nn.Linear(s.hidden, 4 * s.hidden, bias=s.bias)
        self.down = nn.Linear(4 * s.hidden, s.hidden, bias=s.bias)

    def forward(self, x_BSH: Tensor) -> Tensor:
        x_BSH = x_BSH + self._drop(self.attention_out(self._attend(self.norm_1(x_BSH))))
        return x_BSH + self._drop(self.down(F.gelu(self.up(self.norm_2(x_BSH)))))

    def _attend(self, x_BSH: Tensor) -> Tensor:
        batch, length, hidden = x_BSH.shape
        qkv = self.qkv(x_BSH).view(batch, length, 3, self.heads, hidden // self.heads)
        q_BNSD, k_BNSD, v_BNSD = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        out_BNSD = F.scaled_dot_product_attention(q_BNSD, k_BNSD, v_BNSD, dropout_p=dropout, is_causal=True)
        return out_BNSD.transpose(1, 2).reshape(batch, length, hidden)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class PlainGPT(nn.Module):
    """Token ids [B, S] to logits [B, S, vocab]."""

    def __init__(self, vocab: int, s: Settings) -> None:
        super().__init__()
        self.dropout = s.dropout
        self.tokens = nn.Embedding(vocab, s.hidden)
        self.positions = nn.Embedding(s.context, s.hidden)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.hidden, bias=s.bias)
        self.head = nn.Linear(s.hidden, vocab, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention_out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * s.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids_BS: Tensor) -> Tensor:
        positions_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        x_BSH = self.tokens(ids_BS) + self.positions(positions_S)
        x_BSH = F.dropout(x_BSH, self.dropout, self.training)
        for block in self.blocks:
            x_BSH = block(x_BSH)
        logits: Tensor = self.head(self.norm(x_BSH))
        return logits


def make_optimizer(model: nn.Module, s: Settings) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on parameters of two dimensions alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": s.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=s.lr, betas=s.betas, fused=True)


def learning_rate(step: int, s: Settings) -> float:
    """Rate of step `step`, from 0: linear up to `lr` over the warm-up, then a cosine down to `min_lr`."""
    if step < s.warmup:
        return s.lr * (step + 1) / (s.warmup + 1)
    done = (step - s.warmup) / max(1, s.steps - s.warmup)
    return s.min_lr + 0.5 * (1 + math.cos(math.pi * min(1.0, done))) * (s.lr - s.min_lr)


def random_crops(ids: Tensor, s: Settings, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of (inputs, labels), each [batch, context], from random places of the text."""
    offsets = torch.arange(s.context)
    while True:
        starts = torch.randint(len(ids) - s.context, (s.batch, 1), generator=generator)
        yield ids[starts + offsets], ids[starts + offsets + 1]


@torch.no_grad()
def validation_loss(model: PlainGPT, ids: Tensor, context: int, windows_per_batch: int = 64) -> float:
    """Mean loss in nats of every token of `ids` but the first, in windows that do not overlap."""
    model.eval()
    nll = 0.0
    whole = (len(ids) - 1) // context
    for first in range(0, whole, windows_per_batch):
        rows = min(windows_per_batch, whole - first)
        part = ids[first * context : (first + rows) * context + 1]
        nll += _nll(model, part[:-1].view(rows, context), part[1:].view(rows, context))
    if whole * context < len(ids) - 1:
        rest = ids[whole * context :]
        nll += _nll(model, rest[None, :-1], rest[None, 1:])
    model.train()
    return nll / (len(ids) - 1)


def _nll(model: PlainGPT, inputs_BS: Tensor, labels_BS: Tensor) -> float:
    logits = model(inputs_BS).flatten(0, 1).float()
    return F.cross_entropy(logits, labels_BS.flatten(), reduction="sum").item()


def train_plain_gpt(
    train_ids: Sequence[int] | np.ndarray,
    val_ids: Sequence[int] | np.ndarray,
    vocab: int,
    settings: Settings,
    seed: int,
    log_every: int = 100,
) -> tuple[list[tuple[int, float]], float]:
    """Train in fp32 on the CPU.

    Args:
        train_ids: token ids of the text to learn, as one stream.
        val_ids: token ids held out.
        vocab: number of ids.
        settings: model and optimisation.
        seed: of the initial weights, the crops and dropout.
        log_every: steps between the losses that are handed back.

    Returns:
        [(steps done, loss of that step's batch)] and the loss over the whole of `val_ids` at the end.
    """
    torch.manual_seed(seed)
    model = PlainGPT(vocab, settings)
    optimizer = make_optimizer(model, settings)
    text = torch.from_numpy(np.asarray(train_ids, dtype=np.int64))
    batches = random_crops(text, settings, torch.Generator().manual_seed(seed))
    losses = []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        inputs, labels = next(batches)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        if (step + 1) % log_every == 0 or step + 1 == settings.steps:
            losses.append((step + 1, loss.item()))
    held_out = torch.from_numpy(np.asarray(val_ids, dtype=np.int64))
    return losses, validation_loss(model, held_out, settings.context)
