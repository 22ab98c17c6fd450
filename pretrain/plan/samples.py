"""One micro-batch of a model family, for its shapes alone."""

from dataclasses import fields, replace
from typing import Any

from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from pretrain.megatron.pipeline import PipelineModel


def local_micro_batch(model: PipelineModel) -> Any:
    """As the model's family gives it to this rank, without numbers; in a world of fake tensors."""
    family = model.family
    if not family.reads_numbers:
        return family.localise(family.dummy_batch())
    with unset_fake_temporarily():
        local = family.localise(family.dummy_batch())
    fake = detect_fake_mode()
    assert fake is not None, "called in a fake world"
    return replace(
        local,
        **{
            field.name: fake.from_tensor(value)
            for field in fields(local)
            if isinstance(value := getattr(local, field.name), Tensor)
        },
    )


def bytes_of(local: Any) -> int:
    """Bytes of a local micro-batch, as if nothing in it were shared."""
    tensors = [getattr(local, field.name) for field in fields(local)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
