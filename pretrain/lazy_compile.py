"""Keeps torch's compiler out of the start of a process until something is compiled.

megatron-core decorates its fused functions with `torch.compile` as it is imported, and that alone imports
inductor, which takes half of what a rank needs to start. Runs on a CPU call none of these functions.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

FUSER = "megatron.core.jit"
"""Its `jit_fuser` is megatron's decorator."""


def compile_at_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile(function)`, put off until it is called."""
    compiled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            import torch

            compiled = torch.compile(function)
        return compiled(*arguments, **options)

    return call


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        vars(module)["jit_fuser"] = compile_at_first_call


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != FUSER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def install() -> None:
    """For the import of megatron-core, which has to come later."""
    sys.meta_path.insert(0, _Finder())
