"""Products with weights; on a CPU by oneDNN, which takes half the time of torch's own in fp32.

torch gives products in fp32 to MKL, which runs its AVX2 code on processors that are not Intel's and reads
weights slowly where there are few rows. On an AMD EPYC with AVX-512 oneDNN is twice as fast in training and
three times for a single token. Products in bf16 go to oneDNN in torch as well. Precision is the same: sums
are in fp32. Their order depends on the shapes and on the processor, with oneDNN as with MKL.

Shape legend: M rows, I inputs, O outputs of this rank.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import mm_flop, register_flop_formula

_onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None: a build without oneDNN


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product of this type here: in bf16 not on processors without AVX-512."""
    return _onednn is not None and (
        dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x_MI = x.flatten(0, -2)
    if not x_MI.numel() or not _onednn_multiplies(x.dtype):  # oneDNN has no sum of nothing
        made_MO = F.linear(x_MI, weight, bias)
    else:
        made_MO = _onednn(x_MI, weight, bias, "none", [], "")
    # A view, but not one that autograd knows: it forbids to write into views that a function has made.
    made: Tensor = torch.ops.aten._unsafe_view(made_MO, (*x.shape[:-1], weight.shape[0]))
    return made


def _count(x_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    """Operations of `_product`, for torch's counter, which does not know it."""
    *rows, inputs = x_shape
    flops: int = mm_flop((torch.Size(rows).numel(), inputs), (inputs, weight_shape[0]))
    return flops


if _onednn is not None:
    register_flop_formula(_onednn)(_count)


class _Linear(torch.autograd.Function):
    """x W^T + b, with what tensor parallelism sends on its way.

    As in megatron-core, the gathered input of sequence parallelism is not kept but gathered again, and what
    is sent in the backward pass travels while the gradient of the weight is computed.
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
            x_gradient = _product(gradient, weight.t())
            if ctx.gather:
                whole = x_gradient
                x_gradient = torch.empty_like(ctx.saved_tensors[0])
                sending = dist.reduce_scatter_tensor(x_gradient, whole, group=ctx.group, async_op=True)
            elif ctx.group is not None:
                sending = dist.all_reduce(x_gradient, group=ctx.group, async_op=True)
        rows = gradient.flatten(0, -2)
        if of_weight:
            weight_gradient = _weight_gradient(rows, x.flatten(0, -2))
        if of_bias:
            bias_gradient = rows.sum(0)
        if sending is not None:
            sending.wait()
        return x_gradient, weight_gradient, bias_gradient, None, None


def _gathered(local: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The whole sequence, the first dimension, from this rank's part."""
    assert group is not None
    whole = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
    dist.all_gather_into_tensor(whole, local.contiguous(), group=group)
    return whole


def _weight_gradient(gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
    """[O, I]."""
    if gradient_MO.dtype != torch.float32:
        return gradient_MO.t() @ x_MI
    (rows, outputs), inputs = gradient_MO.shape, x_MI.shape[1]
    # oneDNN's first operand is copied where it is transposed: whichever way copies less.
    if inputs * (rows + outputs) < rows * outputs:
        return _product(x_MI.t(), gradient_MO.t()).t()
    return _product(gradient_MO.t(), x_MI.t())


def linear_on_cpu(
    input: Tensor,  # megatron's name
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
        input: [..., I], of the weight's type. The first dimension is this rank's part of the sequence with
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
    """x W^T + b, [..., I] to [..., O], by what is fastest on the device."""
    return (linear_on_cpu if x.device.type == "cpu" else F.linear)(x, weight, bias)
