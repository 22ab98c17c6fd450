"""Whatever is in a config file, reading it gives a Config or one readable message; never anything else."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from config_files import SHIPPED, SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.config.load import load_config, read_config
from pretrain.config.resolved import config_to_yaml
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import GptConfig
from pretrain.errors import UserError

pytestmark = pytest.mark.slow

Try = Callable[..., bool]
FAST = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEYS = [part for path, _ in leaf_keys(GptConfig) for part in path] + ["base", "path", "weight", "<<", "x"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["gpt", "bf16", "cosine", "6e-4", "~", "$x", "012", 2**31 - 1, 2**63, -1, 1, 2, 4, 64])
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
FRAGMENTS = [
    "- ",
    ": ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<: *a",
    "!!x ",
    "'",
    '"',
    "|",
    ">",
    "#",
    "?",
]
FRAGMENTS += ["%", "@", "`", "---", "...", "\t", "\0", "\x85", "\u2028", "\ufeff", "run:", "1e9", "null"]


@pytest.fixture(scope="module")
def attempt() -> Iterator[Try]:
    """Reads bytes as a config; True if they were one, in which case it survives a round trip."""
    with TemporaryDirectory() as folder:
        file, again = Path(folder, "a.yaml"), Path(folder, "b.yaml")

        def read(raw: bytes, *overrides: str) -> bool:
            file.write_bytes(raw)
            try:
                loaded = load_config(str(file), overrides, world_size=4)
            except UserError as error:
                message = str(error)
                assert error.exit_code == 2
                assert "a.yaml" in message or "command line" in message
                assert len(message) < 20_000
                message.encode("utf-8")
                return False
            again.write_text(config_to_yaml(loaded.config), encoding="utf-8")
            assert read_config(str(again)).config == loaded.config
            return True

        yield read


@FAST
@given(text=st.text(max_size=200) | st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_any_text(attempt: Try, text: str) -> None:
    attempt(text.encode("utf-8", "surrogatepass"))


@settings(FAST, max_examples=500)
@given(raw=st.binary(max_size=100))
def test_any_bytes(attempt: Try, raw: bytes) -> None:
    attempt(raw)


@settings(FAST, max_examples=800)
@given(tree=st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6))
def test_any_tree_of_keys_and_values(attempt: Try, tree: dict[str, Any]) -> None:
    attempt(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@settings(FAST, max_examples=1000)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from([path for path, _ in leaf_keys(GptConfig)]), SCALARS), max_size=4
    ),
    override=st.tuples(st.sampled_from(KEYS), st.text(max_size=8)).map("=".join) | st.text(max_size=12),
)
def test_a_valid_config_with_any_values_changed(attempt: Try, changes: list[Any], override: str) -> None:
    tree: dict[str, Any] = {name: dict(section) for name, section in SMALL.items()}
    for path, value in changes:
        parent: Any = tree
        for part in path[:-1]:
            parent = parent.setdefault(part, {})
        parent[path[-1]] = value
    attempt(yaml.safe_dump(tree).encode())
    attempt(yaml.safe_dump(SMALL).encode(), override)


def test_shipped_configs_with_characters_changed_lost_or_doubled(attempt: Try) -> None:
    generator = random.Random(7)
    accepted = 0
    for number in range(1000):
        text = SHIPPED[number % len(SHIPPED)].read_text()
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(text))
            span = text[at : at + generator.randint(0, 12)]
            new = generator.choice(["", span * 2, span[::-1], generator.choice(FRAGMENTS), "9", "-"])
            text = text[:at] + new + text[at + len(span) :]
        accepted += attempt(text.encode("utf-8"))
    assert 100 < accepted < 950, "the changes should leave some configs legal and break others"
