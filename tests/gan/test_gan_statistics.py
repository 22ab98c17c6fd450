"""Batch statistics of averaged weights are those of what they generate, not those of the live network."""

import pytest
import torch
from gan_configs import gan_config
from torch import nn

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.build import build_generator, shape_of
from pretrain.gan.statistics import BATCHES, measure_statistics


def as_torch_has_it(network: nn.Module) -> nn.Module:
    """The same network with torch's own norms, which take cumulative means (`momentum=None`)."""
    for name, child in network.named_children():
        if isinstance(child, BatchNorm):
            norm = nn.BatchNorm2d(len(child.weight), eps=child.epsilon, momentum=None)
            norm.load_state_dict(child.state_dict(), strict=False)
            setattr(network, name, norm)
        else:
            as_torch_has_it(child)
    return network


@pytest.mark.parametrize("conditional", [False, True])
def test_statistics_are_the_cumulative_means_of_torch(
    conditional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gan_config(model__conditional=conditional, model__batch_norm=True)
    classes = 3 if conditional else 0
    shape = shape_of(config.model, config.loss, 1, classes)
    ours, plain = build_generator(shape, 5), as_torch_has_it(build_generator(shape, 5))
    batches: list[torch.Tensor] = []
    real_randn = torch.randn

    def recorded(*size: int, generator: torch.Generator) -> torch.Tensor:
        batches.append(real_randn(*size, generator=generator))
        return batches[-1]

    monkeypatch.setattr("pretrain.gan.statistics.torch.randn", recorded)
    measure_statistics(ours, config.model.latent_size, classes, 5)
    assert len(batches) == BATCHES
    assert len({float(batch.sum()) for batch in batches}) == BATCHES, "each batch has noise of its own"
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms, "nothing was compared"
    for norm in norms:
        norm.reset_running_stats()
    plain.train()
    with torch.no_grad():
        for batch in batches:
            plain(batch, torch.arange(len(batch)) % classes if classes else None)
    found = {name: value for name, value in ours.state_dict().items() if "running" in name}
    expected = plain.state_dict()
    assert found
    for name, value in found.items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name
