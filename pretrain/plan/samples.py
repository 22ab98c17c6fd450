"""One micro-batch of a model spec, used only for its shapes."""

from dataclasses import fields, replace
from typing import Any

from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from pretrain.megatron.pipeline import PipelineModel


def local_micro_batch(model: PipelineModel) -> Any:
    """A micro-batch as the model spec gives it to this rank, without values; in a fake world."""
    spec = model.family
    if not spec.reads_numbers:
        return spec.localise(spec.dummy_batch())
    # This model spec looks at values, so it gets a real batch, which becomes fake afterwards.
    with unset_fake_temporarily():
        local = spec.localise(spec.dummy_batch())
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
    """Bytes of a local micro-batch, counting shared memory each time."""
    tensors = [getattr(local, field.name) for field in fields(local)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
