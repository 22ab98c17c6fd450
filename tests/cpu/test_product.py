"""Products with weights: the numbers, gradients and counts of torch's own."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pretrain.cpu.linear import linear
from pretrain.cpu.products.method import METHODS

SHAPES = {
    "wide": ((7, 3, 16), 40),
    "narrow": ((7, 3, 40), 16),
    "few outputs": ((50, 2, 8), 24),
    "one row": ((1, 16), 8),
    "no rows": ((0, 16), 8),
    "four dimensions": ((2, 3, 5, 8), 4),
}


def results(
    product: Callable[..., Tensor], shape: tuple[int, ...], outputs: int, *, bias: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Output and gradients, as float64."""
    draw = torch.Generator().manual_seed(1)
    shapes = [shape, (outputs, shape[-1])] + [(outputs,)] * bias
    leaves = [torch.randn(each, generator=draw).to(dtype).requires_grad_() for each in shapes]
    made = product(*leaves)
    made.backward(torch.randn(made.shape, generator=draw).to(dtype))
    return [made.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_output_and_gradients_are_those_of_torch(name: str, bias: bool, dtype: torch.dtype) -> None:
    ours = results(linear, *SHAPES[name], bias=bias, dtype=dtype)
    theirs = results(F.linear, *SHAPES[name], bias=bias, dtype=dtype)
    assert len(ours) == len(theirs) == 3 + bias
    bound = 1e-5 if dtype == torch.float32 else 0.05
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=bound, atol=bound)


def test_fp32_is_not_rounded_to_less() -> None:
    x, weight = torch.randn(64, 300), torch.randn(200, 300)
    exact = x.double() @ weight.double().t()
    assert (linear(x, weight) - exact).abs().max() < 1e-4


def test_a_row_does_not_depend_on_the_others() -> None:
    """But for the order of 96 products of about 1, which depends on the number of rows: 96 roundings of 6e-8
    of partial sums of about 10."""
    x, weight = torch.randn(64, 96), torch.randn(160, 96)
    torch.testing.assert_close(linear(x, weight)[5:9], linear(x[5:9], weight), rtol=1e-5, atol=6e-5)


@pytest.mark.slow
def test_bf16_works_on_a_processor_without_avx512() -> None:
    """oneDNN has no product in bf16 there. It is told which processor it has when it is loaded."""
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "those_of_torch"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "24 passed" in done.stdout


def test_gradients_of_what_needs_none_are_not_computed() -> None:
    weight = torch.randn(4, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(3, 8), weight).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 3 * 8 * 4)  # forward, and the weight's gradient


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_of_gradients_begins_anew_or_goes_on(method: str) -> None:
    """In fp32, whatever it held before; `widened` rounds nothing on the way: 257 is no bf16."""
    dtype = torch.bfloat16 if method == "widened" else torch.float32
    gradient = torch.tensor([[1.0, 2], [3, 255]]).to(dtype)
    x = torch.tensor([[1.0, 1, 2], [1, 0, 1]]).to(dtype)
    made = gradient.double().t() @ x.double()
    total = torch.full((2, 3), float("nan"))
    METHODS[method].sum_weight_gradient(gradient, x, total, first=True)
    assert torch.equal(total.double(), made)
    METHODS[method].sum_weight_gradient(gradient, x, total, first=False)
    assert torch.equal(total.double(), 2 * made)


def test_the_output_can_be_written_to() -> None:
    weight = torch.randn(4, 8, requires_grad=True)
    made = linear(torch.ones(2, 3, 8), weight)
    made[..., 2:] = 0
    made.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.tensor([6.0, 6, 0, 0])[:, None].expand(4, 8))
