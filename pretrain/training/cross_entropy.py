"""Cross entropy computed in the memory of the logits, for a rank that has the whole vocabulary.

torch's own makes three more tensors of the logits' size: the log-probabilities, the gradient of the negative
log-likelihood (zeros except for one number a row), and the gradient of the logits.
"""

from typing import Any

import torch
from torch import Tensor


class _CrossEntropy(torch.autograd.Function):
    """The logits become log-probabilities, and in the backward pass their own gradient."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N1: Tensor) -> Tensor:
        torch._log_softmax(logits_NV, -1, False, out=logits_NV)  # the public function takes no `out`
        ctx.save_for_backward(logits_NV, labels_N1)
        return -logits_NV.gather(1, labels_N1).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_N1 = gradients[0][:, None]
        logits_NV, labels_N1 = ctx.saved_tensors
        # The gradient of -log softmax is softmax minus one-hot, times the incoming gradient.
        logits_NV.exp_().mul_(gradient_N1).scatter_add_(1, labels_N1, -gradient_N1)
        return logits_NV, None


def cross_entropy_in_place(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-likelihood of each label, [N] float32.

    Args:
        logits_NV: float32. Overwritten now and in the backward pass: nothing else may need them.
        labels_N: int64.
    """
    losses: Tensor = _CrossEntropy.apply(logits_NV, labels_N[:, None])  # type: ignore[no-untyped-call]
    return losses
