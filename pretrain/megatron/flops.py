"""Floating-point operations of a training step, and the share of the hardware's peak that they use."""

import torch

from pretrain.config import derived
from pretrain.config.hardware import GPUS
from pretrain.config.sections import BertConfig, Config, TextConfig

PEAK_BF16_FLOPS = {
    "H100 PCIe": 756e12,
    **{name.partition("-")[0].upper(): gpu.peak for name, gpu in GPUS.items() if name != "cpu"},
}
"""Dense bf16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets. The first name that the device's name
contains counts. TF32 and fp32 peaks are lower, so fp32 runs report no MFU."""


def flops_per_token(config: TextConfig, vocab_size: int, length: int) -> float:
    """FLOPs of the forward and backward matrix multiplications of one token, in samples of `length` tokens.

    6 per element of a matrix that is multiplied with (2 forward, 4 backward) plus 12 x layers x heads x head
    size x sequence for attention scores and values, as if none were masked (Chowdhery et al. 2022, "PaLM",
    appendix B); of a sequence longer than a layer's window, the window counts. Recomputation is not counted.
    The heads of a BERT see only the tokens to predict, or only the first one.
    """
    model = config.model
    hidden = model.hidden_size
    head: float = vocab_size * hidden
    if isinstance(config, BertConfig):
        head = config.data.mask_probability * (head + hidden**2)
        head += (hidden**2 + 2 * hidden) / length if config.data.nsp else 0
    matrices = model.num_layers * derived.layer_matrices(model)
    attended = sum(min(length, window or length) for window in derived.windows(model))
    return 6 * (matrices + head) + 12 * derived.head_size(model) * model.num_attention_heads * attended


def peak_flops(config: Config, device: torch.device) -> float | None:
    """The device's peak in FLOP/s; None if it is not known for this device and precision."""
    if device.type != "cuda" or config.precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)
