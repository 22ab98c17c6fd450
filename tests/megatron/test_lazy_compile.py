"""torch's compiler is loaded by what is compiled, not by every rank that starts."""

import subprocess
import sys

import pytest
import torch

from pretrain.lazy_compile import compile_at_first_call

START = """
import sys
import pretrain.bert.trainer, pretrain.gan.trainer, pretrain.gpt.trainer, pretrain.rnn.trainer
from megatron.core.fusions.fused_bias_geglu import geglu
assert "megatron.core.jit" in sys.modules
print(*[name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules], geglu.__name__)
"""


def test_trainers_are_imported_without_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["geglu"], done.stdout + done.stderr


def test_a_function_is_compiled_once_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compiler(function: object) -> object:
        compiled.append(function)
        return lambda number, by=1: number * by + 1

    monkeypatch.setattr(torch, "compile", compiler)

    def double(number: int, by: int = 1) -> int:
        raise AssertionError("the compiled function is called instead")

    lazy = compile_at_first_call(double)
    assert not compiled
    assert [lazy(2), lazy(3, by=2)] == [3, 7]
    assert compiled == [double]
