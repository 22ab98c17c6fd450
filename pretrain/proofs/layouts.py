"""Layouts by name, such as TP2xPP2xVPP2+SP: which ones a config is proven on, and which are legal for it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config.rules import violations
from pretrain.config.sections import CorpusConfig, ParallelConfig
from pretrain.errors import UserError

SIZES = {"TP": "tensor", "PP": "pipeline", "VPP": "virtual_pipeline", "CP": "context", "DP": "data"}
OPTIONS = {"SP": "sequence", "DO": "distributed_optimizer", "OVERLAP": "overlap_grad_reduce"}
SINGLE = ("TP2", "PP2", "CP2", "DP2")
LARGEST_DEFAULT = 16
"""A config's own layout of more processes than this is proven only if its name is given."""


@dataclass(frozen=True)
class ProofLayout:
    """A layout with its number of replicas."""

    parallel: ParallelConfig
    data: int = 1
    """Data parallel size."""

    @property
    def processes(self) -> int:
        return self.parallel.ranks * self.data

    @property
    def layer_unit(self) -> int:
        """The number of layers must be a multiple of this."""
        return self.parallel.pipeline * (self.parallel.virtual_pipeline or 1)

    @property
    def name(self) -> str:
        """The name that `parse_layout` reads; "one process" if nothing is split."""
        sizes = {code: getattr(self.parallel, key, self.data) or 1 for code, key in SIZES.items()}
        options = "".join(f"+{code}" for code, key in OPTIONS.items() if getattr(self.parallel, key))
        return ("x".join(f"{code}{size}" for code, size in sizes.items() if size > 1) + options) or (
            "one process"
        )


def parse_layout(text: str, base: ParallelConfig | None = None) -> ProofLayout:
    """A layout from its name: sizes joined by x, then options with +.

    Args:
        text: such as TP2, TP2xPP2xVPP2+SP or DP2+DO; upper or lower case.
        base: its `recompute` is kept.

    Raises:
        UserError: names the part that is not understood, and what there is.
    """
    joined, *options = text.strip().upper().split("+")
    sizes: dict[str, int] = {}
    for part in re.split(r"(?<=\d)X", joined):
        match = re.fullmatch(r"([A-Z]+)(\d+)", part)
        if match is None or match[1] not in SIZES:
            raise UserError(
                f"--layouts: '{text}': '{part}' is no size; sizes are {', '.join(SIZES)} with a number, "
                f"joined by x, then options ({', '.join(OPTIONS)}) with +, such as TP2xPP2+SP"
            )
        if match[1] in sizes:
            raise UserError(f"--layouts: '{text}': {match[1]} is given twice")
        sizes[match[1]] = int(match[2])
        if sizes[match[1]] < 2:
            raise UserError(f"--layouts: '{text}': {part} has no effect; give 2 or more, or leave it out")
    for option in options:
        if option not in OPTIONS:
            raise UserError(
                f"--layouts: '{text}': '+{option}' is no option; there are +{', +'.join(OPTIONS)}"
            )
        if options.count(option) > 1:
            raise UserError(f"--layouts: '{text}': +{option} is given twice")
    values = {SIZES[code]: size for code, size in sizes.items() if code != "DP"}
    flags = {OPTIONS[option]: True for option in options}
    recompute = base.recompute if base else "none"
    return ProofLayout(
        ParallelConfig.model_validate({**values, **flags, "recompute": recompute}), sizes.get("DP", 1)
    )


def own_layout(config: CorpusConfig) -> ProofLayout:
    """The config's layout with as few replicas as possible."""
    parallel = config.parallel
    shares = parallel.distributed_optimizer or parallel.overlap_grad_reduce
    return ProofLayout(parallel, 2 if shares and parallel.context == 1 else 1)


def layers_for(layouts: Sequence[ProofLayout]) -> int:
    """The smallest number of layers, two or more, that is legal in every layout."""
    unit = math.lcm(*(layout.layer_unit for layout in layouts))
    return max(unit, 2)


def problems(config: CorpusConfig, layout: ProofLayout) -> list[str]:
    """Why a config cannot have this layout; none if it can."""
    laid_out = config.model_copy(update={"parallel": layout.parallel})
    return [f"{found.key}: {found.text}" for found in violations(laid_out, layout.processes)]


def asked_layouts(config: CorpusConfig, text: str) -> list[ProofLayout]:
    """The layouts of a comma-separated list.

    Raises UserError if one is not understood, is given twice, or breaks a rule in this config.
    """
    layouts = [parse_layout(name, config.parallel) for name in text.split(",")]
    layers = layers_for(layouts)
    reduced = with_layers(config, layers)
    for index, layout in enumerate(layouts):
        if layout in layouts[:index]:
            raise UserError(f"--layouts: {layout.name} is given twice")
        if found := problems(reduced, layout):
            raise UserError(f"--layouts: {layout.name} is not legal for this config: " + "; ".join(found))
    return layouts


def default_layouts(config: CorpusConfig) -> tuple[list[ProofLayout], list[str]]:
    """The config's own layout, and every layout that splits one thing in two.

    Returns:
        The legal ones, and a line for each that was left out.

    Raises:
        UserError: the config's own layout is not legal.
    """
    own = own_layout(config)
    singles = [parse_layout(name, config.parallel) for name in SINGLE]
    candidates = [own, *(layout for layout in singles if layout != own)]
    legal, left_out = [], []
    for layout in candidates:
        found = problems(with_layers(config, layers_for([layout])), layout)
        if found and layout is own:
            raise UserError(f"the config's layout {layout.name} is not legal: " + "; ".join(found))
        if found:
            left_out.append(f"{layout.name}: {'; '.join(found)}")
        elif layout.processes > LARGEST_DEFAULT:
            left_out.append(
                f"{layout.name}: needs {layout.processes} processes; --layouts {layout.name} runs it"
            )
        elif layout.processes > 1:
            legal.append(layout)
    if not legal:
        raise UserError("no layout to compare with one process:\n  " + "\n  ".join(left_out))
    return legal, left_out


def with_layers(config: CorpusConfig, layers: int) -> CorpusConfig:
    """The config at another depth."""
    return config.model_copy(update={"model": config.model.model_copy(update={"num_layers": layers})})
