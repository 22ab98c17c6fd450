"""Moves batches to the device that computes with them."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU fetches it by itself while the host goes on.

    Only from pinned memory does it do so: a copy from any other memory makes the host wait, whatever is asked
    for.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
