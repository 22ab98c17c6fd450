"""Rotary positions of a GPT: how many numbers of a head turn, and how fast.

Shape legend: F frequencies, half as many as numbers that turn.
"""

import math

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import rotary_base, rotary_size, rotary_turns
from pretrain.config.sections import DecoderModelConfig


def scaled_frequencies(model: DecoderModelConfig, frequencies_F: Tensor) -> Tensor:
    """Frequencies as `model.rotary_scaling` wants them, [F] float32.

    llama3 blends by turns within the original length ("The Llama 3 Herd of Models", 2024, and its published
    code); yarn by the number of the frequency (Peng et al. 2023, "YaRN", section 3.2), between the whole
    numbers around those that turn as often as is said.
    """
    factor, length = model.rotary_scaling_factor, model.rotary_original_length
    if model.rotary_scaling is None or factor is None:
        return frequencies_F
    if model.rotary_scaling == "linear":
        return frequencies_F / factor
    assert length is not None
    slow, fast = rotary_turns(model)
    if model.rotary_scaling == "llama3":
        kept_F = ((length * frequencies_F / (2 * math.pi) - slow) / (fast - slow)).clamp(0, 1)
    else:
        size, per_base = rotary_size(model), 2 * math.log(rotary_base(model))

        def number(turns: float) -> float:
            return size * math.log(length / (turns * 2 * math.pi)) / per_base

        first = max(math.floor(number(fast)), 0)
        last = min(math.ceil(number(slow)), size - 1)
        numbers_F = torch.arange(len(frequencies_F), device=frequencies_F.device)
        kept_F = 1 - ((numbers_F - first) / max(last - first, 0.001)).clamp(0, 1)
    return frequencies_F * (kept_F + (1 - kept_F) / factor)


def set_attention_factor(config: TransformerConfig, model: DecoderModelConfig) -> None:
    """Have megatron-core multiply turned queries and keys as yarn does.

    Its own keys make the factor 0.1 x mscale x ln(scaling factor) + 1, so mscale follows from the factor.
    """
    if model.rotary_scaling != "yarn" or model.rotary_scaling_factor is None:
        return
    given = model.rotary_attention_factor
    config.yarn_rotary_scaling_factor = model.rotary_scaling_factor
    config.yarn_mscale = (
        1.0 if given is None else (given - 1) / (0.1 * math.log(config.yarn_rotary_scaling_factor))
    )
    config.yarn_mscale_all_dim = 0.0
