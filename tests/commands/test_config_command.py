"""A key of a config that is written as an option, as other programs take it."""

import pytest
from shown_commands import TREE

from pretrain.commands.overrides import key_for
from pretrain.errors import UserError


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (["--optimizer.lr=1e-3"], "optimizer.lr=1e-3"),
        (["--optimizer.lr", "1e-3"], "optimizer.lr=1e-3"),
        (["--num-layers", "4"], "model.num_layers=4"),
        (["--lr"], "optimizer.lr=VALUE"),
        (["--data-path", "0.3", "a"], "data.train='[{path: DIR, weight: 0.3}, ...]'"),
        (["--every=4"], "checkpoint.every=4 or eval.every=4"),
    ],
)
@pytest.mark.parametrize("command", ["check", "train", "submit", "plan", "eval", "parity", "verify-resume"])
def test_a_key_that_is_written_as_an_option_is_answered_with_the_right_words(
    command: str, given: list[str], right: str
) -> None:
    with pytest.raises(UserError) as caught:
        TREE.main([command, "a.yaml", *given], standalone_mode=False)
    option = given[0].partition("=")[0]
    assert str(caught.value) == f"{option}: keys of a config are given without dashes: {right}"


def test_an_option_that_is_no_key_is_left_to_the_command_line() -> None:
    assert key_for("--proceses", ["--proceses", "2"]) is None
