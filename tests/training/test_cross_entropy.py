"""The cross entropy that works in place gives torch's losses and gradients."""

import pytest
import torch
import torch.nn.functional as F

from pretrain.training.cross_entropy import cross_entropy_in_place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, labels = torch.randn(40, 8), torch.randint(90, (40,))
    scale = torch.rand(40) * (torch.rand(40) > 0.3)  # masked ones have none
    weight = torch.randn(100, 8) * 5
    found = []
    for in_place in (False, True):
        parameter = weight.clone().requires_grad_()
        logits = (hidden @ parameter.t()).to(dtype)
        logits[:, 90:] = float("-inf")
        if in_place:
            losses = cross_entropy_in_place(logits.float(), labels)
        else:
            losses = F.cross_entropy(logits.float(), labels, reduction="none")
        (losses * scale).sum().backward()
        assert parameter.grad is not None
        found.append((losses.detach(), parameter.grad))
    # Sums of 90 exponentials; a kernel that works in place may add them in another order.
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)
    assert (found[1][1][90:] == 0).all()


def test_a_second_backward_pass_is_refused() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    loss = cross_entropy_in_place(logits * 1.0, torch.tensor([0, 1, 2])).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
