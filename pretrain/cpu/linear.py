"""Matrix products with weights; on a CPU by the method that is chosen for them (`pretrain.cpu.products`).

torch uses MKL for fp32 products. On an AMD EPYC with AVX-512, where MKL runs its AVX2 code, oneDNN is twice
as fast in training and three times as fast for a single token; on an Intel Xeon, and on an EPYC without
AVX-512, it is slower. So the choice is measured. Precision is the same: sums are in fp32. Their order depends
on the method, on the shapes and on the processor.

Shape legend: M rows, I inputs, O outputs of this rank.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import mm_flop, register_flop_formula

from pretrain.cpu.products.choice import FEW_ROWS, in_force
from pretrain.cpu.products.method import METHODS, Method, onednn

CLAIM = "claim_gradient_sum"
"""Attribute of a weight whose gradients are summed: returns the sum, [O, I] in fp32, and whether to write
over it; None if autograd must return the gradient."""


def _method(rows_MI: Tensor, other: Tensor, work: str) -> Method:
    """The method of a product; torch's own if an operand is empty, since oneDNN does not support empty
    sums."""
    if not rows_MI.numel() or not other.numel():
        return METHODS["torch"]
    return in_force().method(rows_MI.dtype, work)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x_MI = x.flatten(0, -2)
    method = _method(x_MI, weight, "few" if len(x_MI) <= FEW_ROWS else "forward")
    return _shaped(method.forward(x_MI, weight, bias), x)


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input: gradient W."""
    gradient_MO = gradient.flatten(0, -2)
    method = _method(gradient_MO, weight, "input_gradient")
    return _shaped(method.input_gradient(gradient_MO, weight), gradient)


def _shaped(made: Tensor, like: Tensor) -> Tensor:
    """An unsafe view: autograd forbids in-place writes into ordinary views that a custom function returns."""
    shaped: Tensor = torch.ops.aten._unsafe_view(made, (*like.shape[:-1], made.shape[-1]))
    return shaped


def _weight_gradient(gradient_MO: Tensor, x_MI: Tensor, weight: Tensor) -> Tensor | None:
    """The gradient of the weight, [O, I]; None if it went straight into the sum over micro-batches."""
    method = _method(gradient_MO, x_MI, "weight_gradient")
    claim: Callable[[], tuple[Tensor, bool] | None] | None = getattr(weight, CLAIM, None)
    if claim is None or (claimed := claim()) is None:
        return method.weight_gradient(gradient_MO, x_MI)
    method.sum_weight_gradient(gradient_MO, x_MI, *claimed)
    return None


def _count(x_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    """FLOPs of oneDNN's product, for torch's FLOP counter, which does not know it."""
    *rows, inputs = x_shape
    flops: int = mm_flop((torch.Size(rows).numel(), inputs), (inputs, weight_shape[0]))
    return flops


if onednn is not None:
    register_flop_formula(onednn)(_count)


class _Linear(torch.autograd.Function):
    """x W^T + b, with the communication of tensor parallelism.

    As in megatron-core, the gathered input of sequence parallelism is not kept but gathered again, and the
    communication of the backward pass overlaps with the gradient of the weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        group: dist.ProcessGroup | None,
        gather: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group, ctx.gather = group, gather
        return _product(_gathered(x, group) if gather else x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        x_gradient = weight_gradient = bias_gradient = sending = None
        if of_weight and ctx.gather:
            x = _gathered(x, ctx.group)
        if of_x:
            x_gradient = _input_gradient(gradient, weight)
            if ctx.gather:
                whole = x_gradient
                x_gradient = torch.empty_like(ctx.saved_tensors[0])
                sending = dist.reduce_scatter_tensor(x_gradient, whole, group=ctx.group, async_op=True)
            elif ctx.group is not None:
                sending = dist.all_reduce(x_gradient, group=ctx.group, async_op=True)
        rows = gradient.flatten(0, -2)
        if of_weight:
            weight_gradient = _weight_gradient(rows, x.flatten(0, -2), weight)
        if of_bias:
            bias_gradient = rows.sum(0)
        if sending is not None:
            sending.wait()
        return x_gradient, weight_gradient, bias_gradient, None, None


def _gathered(local: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The complete sequence, the first dimension, from this rank's part."""
    assert group is not None
    whole = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
    dist.all_gather_into_tensor(whole, local.contiguous(), group=group)
    return whole


def linear_on_cpu(
    input: Tensor,  # megatron's parameter name
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    allreduce_dgrad: bool = False,
    sequence_parallel: bool = False,
    tp_group: dist.ProcessGroup | None = None,
    **_: Any,
) -> Tensor:
    """x W^T + b, [..., I] to [..., O], with the signature of what megatron-core's parallel layers call.

    Args:
        input: [..., I], of the weight's dtype. The first dimension is this rank's part of the sequence with
            `sequence_parallel`.
        weight: [O, I].
        bias: [O].
        allreduce_dgrad: sum the gradient of the input over the group.
        sequence_parallel: gather the input over the group, and scatter the sum of its gradient.
        tp_group: the group.
    """
    group = tp_group if allreduce_dgrad or sequence_parallel else None
    if not torch.is_grad_enabled():
        x = _gathered(input, group) if sequence_parallel else input
        return _product(x, weight, bias)
    made: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, group, sequence_parallel
    )
    return made


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, [..., I] to [..., O], by the method that is chosen for it on a CPU."""
    return (linear_on_cpu if x.device.type == "cpu" else F.linear)(x, weight, bias)
