"""Shapes of published decoders: logits of transformers with the same random weights, and what they count."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from shapes_worker import SHAPES

from pretrain.megatron.layers.attention import within_window
from pretrain.megatron.layers.vocabulary import cross_entropy

WORKER = Path(__file__).with_name("shapes_worker.py")


@pytest.fixture(scope="module")
def found() -> Any:
    done = run_ranks(WORKER, 1, None, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_transformers(found: Any, shape: str) -> None:
    """Of whole texts, and token by token with a cache, also where a shorter text is padded."""
    assert found[shape]["apart"] == pytest.approx(dict.fromkeys(("whole", "cached", "padded"), 0), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_no_key_of_a_shape_could_be_left_out(found: Any, shape: str) -> None:
    assert all(apart > 1e-3 for apart in found[shape]["without"].values()), found[shape]["without"]


def test_a_window_is_of_the_tokens_before() -> None:
    """Three tokens in one process, after two that are in a cache, and over two ranks."""
    cpu = torch.device("cpu")

    def seen(
        mask: torch.Tensor | None, window: int, queries: int, keys: int, rank: int, size: int
    ) -> list[str]:
        found = within_window(mask, window, queries, keys, rank, size, cpu)
        return ["".join(".x"[int(key)] for key in row) for row in found]

    assert seen(None, 2, 3, 3, 0, 1) == ["x..", "xx.", ".xx"]
    assert seen(None, 2, 3, 5, 0, 1) == [".xx..", "..xx.", "...xx"]
    assert seen(torch.tensor([True, False, True]), 2, 3, 3, 0, 1) == ["x.x", "x.x", "..x"]
    # Rank 0 has places 0 and 3, rank 1 has 1 and 2, and keys are gathered in this order.
    assert seen(None, 2, 2, 4, 0, 2) == ["x...", ".x.x"]
    assert seen(None, 2, 2, 4, 1, 2) == ["x.x.", "..xx"]


def test_z_loss_is_in_the_gradient_and_not_in_the_value() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses = cross_entropy(ours * 1.0, labels, 1, z_loss=0.3)
    nll = torch.nn.functional.cross_entropy(plain, labels, reduction="none")
    torch.testing.assert_close(losses, nll)
    [gradient] = torch.autograd.grad(losses.sum(), ours)
    [expected] = torch.autograd.grad((nll + 0.3 * plain.logsumexp(-1) ** 2).sum(), plain)
    torch.testing.assert_close(gradient, expected)
