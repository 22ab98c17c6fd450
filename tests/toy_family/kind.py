"""What is asked of a polynomial."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pretrain.kind import Kind, Late

from .config import RULES, PolynomialConfig

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.config.load import LoadedConfig


def _open(loaded: "LoadedConfig", config: PolynomialConfig, processes: int | None) -> "Tensor":
    from .trainer import read_points

    with loaded.at_its_line():
        return read_points(config)


def _summary(
    config: PolynomialConfig, processes: int | None, points: "Tensor | None"
) -> Iterator[tuple[str, str]]:
    yield "parameters", str(config.model.degree + 1)
    if points is not None:
        yield "points", str(len(points))


POLYNOMIAL = Kind(
    name="polynomial",
    title="a polynomial",
    config=PolynomialConfig,
    rules=RULES,
    trainer=Late("pretrain.polynomial.trainer:PolynomialTrainer"),
    open_data=_open,
    summary=_summary,
    contents=lambda points: f"{len(points)} points",
)
