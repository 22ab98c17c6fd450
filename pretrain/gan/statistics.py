"""Batch statistics of a generator whose weights are an average.

The running statistics of training belong to the weights of its last steps. For the moving average they are
measured again, from noise, as for any average of weights (Izmailov et al. 2018, "Averaging Weights Leads to
Wider Optima and Better Generalization", section 3.2).
"""

from functools import partial

import torch
from torch import Tensor, nn

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.samples import BATCH
from pretrain.seeds import stream_seed

BATCHES = 16


@torch.no_grad()
def measure_statistics(generator: nn.Module, latent_size: int, classes: int, seed: int) -> None:
    """Set the running statistics of every `BatchNorm` to their means over batches of generated images.

    No communication: with equal weights and seeds every rank computes the same.

    Args:
        generator: with the weights that its statistics are to fit; in evaluation mode afterwards.
        latent_size: numbers of noise for an image.
        classes: given in turn to a conditional generator; 0: none.
        seed: of the noise.
    """
    norms = [module for module in generator.modules() if isinstance(module, BatchNorm)]
    generator.eval()
    if not norms:
        return
    measured = {
        norm: (torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)) for norm in norms
    }
    hooks = [norm.register_forward_pre_hook(partial(_normalise_by_batch, *measured[norm])) for norm in norms]
    device = norms[0].running_mean.device
    labels = torch.arange(BATCH, device=device) % classes if classes else None
    for number in range(BATCHES):
        random = torch.Generator().manual_seed(stream_seed(seed, "statistics", number))
        generator(torch.randn(BATCH, latent_size, generator=random).to(device), labels)
    for hook in hooks:
        hook.remove()
    for norm, (mean_C, variance_C) in measured.items():
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(variance_C)


def _normalise_by_batch(
    mean_C: Tensor, variance_C: Tensor, norm: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    """Let `norm` use the statistics of this batch, as in training, and add their share to the means."""
    assert isinstance(norm, BatchNorm)
    values = inputs[0].float().transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(values, dim=1, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    count = values.shape[1]
    mean_C += mean / BATCHES
    # Unbiased, as the running variance is.
    variance_C += variance * (count / (count - 1)) / BATCHES
