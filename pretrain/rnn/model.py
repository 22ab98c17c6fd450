"""Recurrent language models: tanh, LSTM and GRU layers between an embedding and an output head.

Shapes: B streams, S tokens, H hidden, L layers, C numbers of state in a layer (H, and 2 H for an LSTM:
output and memory), G gates, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.config.sections import RnnModelConfig
from pretrain.cpu.linear import linear
from pretrain.seeds import stream_seed

GATES: Mapping[str, int] = MappingProxyType({"rnn": 1, "lstm": 4, "gru": 3})
"""Products of a cell with its input, by kind; in torch's order."""
_RUN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"rnn": torch.rnn_tanh, "lstm": torch.lstm, "gru": torch.gru}
)


class Recurrence(nn.Module):
    """One layer that reads a sequence from left to right.

    torch's own modules hold several layers with dropout between them, which a GPU draws from a stream that a
    checkpoint cannot hold; and under autocast a GRU would stay in fp32 on a CPU.
    """

    def __init__(self, cell: str, hidden_size: int) -> None:
        super().__init__()
        self.cell = cell
        rows = GATES[cell] * hidden_size
        self.input_weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.hidden_weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.input_bias = nn.Parameter(torch.empty(rows))
        self.hidden_bias = nn.Parameter(torch.empty(rows))

    @property
    def state_size(self) -> int:
        return self.input_weight.shape[1] * (2 if self.cell == "lstm" else 1)

    def forward(self, inputs_BSH: Tensor, state_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, S, H] and the state after the last token, in the dtype of the inputs."""
        dtype = inputs_BSH.dtype
        weights = [weight.to(dtype) for weight in self.parameters()]
        parts = [part.contiguous() for part in state_BC.to(dtype)[None].tensor_split(self._states, -1)]
        before = parts if self._states == 2 else parts[0]
        outputs_BSH, *after = _RUN[self.cell](
            inputs_BSH, before, weights, True, 1, 0.0, self.training, False, True
        )
        return outputs_BSH, torch.cat(after, -1)[0]

    @property
    def _states(self) -> int:
        return 2 if self.cell == "lstm" else 1


class Rnn(nn.Module):
    """The whole model. Its weights are fp32 and are cast to the precision of the arithmetic."""

    def __init__(self, config: RnnModelConfig, vocab_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        size = config.hidden_size
        self.dtype, self.dropout = dtype, config.dropout
        self.embedding = nn.Parameter(torch.empty(vocab_size, size))
        self.layers = nn.ModuleList(Recurrence(config.cell, size) for _ in range(config.num_layers))
        self.head = None if config.tie_embeddings else nn.Parameter(torch.empty(vocab_size, size))
        self.state_shape = (config.num_layers, size * (2 if config.cell == "lstm" else 1))

    @property
    def vocab_size(self) -> int:
        return len(self.embedding)

    def forward(self, tokens_BS: Tensor, state_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Read S tokens of each stream.

        Args:
            tokens_BS: int64.
            state_BLC: after the tokens before these; zeros at the beginning of a stream.

        Returns:
            Logits of the token after each, float32 [B, S, V], and the state after the last, float32.
        """
        hidden_BSH = self._drop(functional.embedding(tokens_BS, self.embedding).to(self.dtype))
        states = []
        for layer, state_BC in zip(self.layers, state_BLC.unbind(1), strict=True):
            hidden_BSH, after_BC = layer(hidden_BSH, state_BC)
            hidden_BSH = self._drop(hidden_BSH)
            states.append(after_BC.float())
        head_VH = self.embedding if self.head is None else self.head
        return linear(hidden_BSH, head_VH.to(self.dtype)).float(), torch.stack(states, 1)

    def no_state(self, streams: int) -> Tensor:
        """The state before the first token of each stream, zeros [B, L, C]."""
        return self.embedding.new_zeros(streams, *self.state_shape)

    def _drop(self, hidden_BSH: Tensor) -> Tensor:
        return functional.dropout(hidden_BSH, self.dropout, self.training) if self.dropout else hidden_BSH


def build_rnn(config: RnnModelConfig, vocab_size: int, seed: int, dtype: torch.dtype = torch.float32) -> Rnn:
    """A new model, each weight a function of the seed and its name.

    Embedding and head are normal with standard deviation 1 / sqrt(hidden), input weights uniform as in Glorot
    & Bengio (2010), recurrent weights orthogonal gate by gate (Saxe et al. 2014), and biases 0, except 1 for
    the gate by which an LSTM keeps its memory (Jozefowicz et al. 2015).
    """
    model = Rnn(config, vocab_size, dtype)
    size = config.hidden_size
    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(stream_seed(seed, name))
            if name in ("embedding", "head"):
                weight.normal_(0, 1 / math.sqrt(size), generator=generator)
            elif name.endswith("hidden_weight"):
                for gate in torch.split(weight, size):
                    nn.init.orthogonal_(gate, generator=generator)
            elif name.endswith("input_weight"):
                for gate in torch.split(weight, size):
                    nn.init.xavier_uniform_(gate, generator=generator)
            else:
                weight.zero_()
                if config.cell == "lstm" and name.endswith("input_bias"):
                    weight[size : 2 * size] = 1  # torch's order: input, forget, cell, output
    return model
