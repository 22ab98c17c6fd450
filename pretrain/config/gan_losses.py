"""The losses of a GAN, one record each: what D and G minimise, and what follows from it for the rest.

All are means over images, in fp32. A new loss is a new record here: the config offers it, the docs name it,
and networks, rules and verdicts ask the record. Nothing is imported until a loss is computed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GanLoss:
    """One pair of losses."""

    source: str
    """Where it was published."""
    discriminator: "Callable[[Tensor, Tensor], Tensor]"
    """D's loss from its outputs for real and for generated images, [B] each."""
    generator: "Callable[[Tensor, Tensor], Tensor]"
    """G's loss from D's outputs for generated images and, if it `compares`, for real ones, [B] each."""
    tie: float | None
    """D's loss if it cannot tell real from generated; None: there is no such number."""
    compares: bool = False
    """Whether G's step also needs outputs for real images."""
    sees_differences: bool = False
    """Whether it sees only differences of D's outputs, which then need no bias."""
    needs_bound: bool = False
    """Whether D's slope must be bounded, by a penalty or by its norm."""

    def of_discriminator(self, real_B: "Tensor", fake_B: "Tensor") -> "Tensor":
        """`discriminator`, in fp32."""
        return self.discriminator(real_B.float(), fake_B.float())

    def of_generator(self, fake_B: "Tensor", real_B: "Tensor | None") -> "Tensor":
        """`generator`, in fp32; `real_B` if it `compares`."""
        assert real_B is not None or not self.compares, "it compares with real images"
        return self.generator(fake_B.float(), (fake_B if real_B is None else real_B).float())


def _softplus(x_B: "Tensor") -> "Tensor":
    from torch.nn.functional import softplus

    return softplus(x_B)


def _cross_entropy(real_B: "Tensor", fake_B: "Tensor") -> "Tensor":
    return _softplus(-real_B).mean() + _softplus(fake_B).mean()


LOSSES: Mapping[str, GanLoss] = MappingProxyType(
    {
        "minimax": GanLoss(
            source="Goodfellow et al. 2014",
            discriminator=_cross_entropy,
            generator=lambda fake_B, _: -_softplus(fake_B).mean(),
            tie=2 * math.log(2),
        ),
        "non_saturating": GanLoss(
            source="Goodfellow et al. 2014",
            discriminator=_cross_entropy,
            generator=lambda fake_B, _: _softplus(-fake_B).mean(),
            tie=2 * math.log(2),
        ),
        "hinge": GanLoss(
            source="Lim & Ye 2017",
            discriminator=lambda real_B, fake_B: (1 - real_B).relu().mean() + (1 + fake_B).relu().mean(),
            generator=lambda fake_B, _: -fake_B.mean(),
            tie=2.0,
        ),
        "wasserstein": GanLoss(
            source="Arjovsky et al. 2017",
            discriminator=lambda real_B, fake_B: fake_B.mean() - real_B.mean(),
            generator=lambda fake_B, _: -fake_B.mean(),
            tie=None,
            sees_differences=True,
            needs_bound=True,
        ),
        "relativistic": GanLoss(
            source="RpGAN, each real image against a generated one (Jolicoeur-Martineau 2019)",
            discriminator=lambda real_B, fake_B: _softplus(fake_B - real_B).mean(),
            generator=lambda fake_B, real_B: _softplus(real_B - fake_B).mean(),
            tie=math.log(2),
            compares=True,
            sees_differences=True,
        ),
    }
)
"""`loss.kind` -> the record."""


def published() -> str:
    """Which loss is whose, for the docs of `loss.kind`."""
    found = groupby(LOSSES, lambda name: LOSSES[name].source)
    return " ".join(f"{', '.join(names)}: {source}." for source, names in found)
