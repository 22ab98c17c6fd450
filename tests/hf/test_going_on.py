"""docs/huggingface.md from end to end: import, more training, conversations, scores, export."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("going_on_worker.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("life")
    command = [sys.executable, "-W", "ignore", str(WORKER), str(folder)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_perplexity_is_that_of_a_plain_loop(found: Any) -> None:
    assert all(found["ids"])
    for name, expected in found["plain scores"].items():
        assert found["scores"][name] == pytest.approx(expected, rel=1e-4), name


def test_the_model_learns_to_answer_in_its_own_template(found: Any) -> None:
    """And says the same when it is asked by transformers, from the export."""
    assert found["answers"][0] == "fire"
    assert found["answers"] == found["their answers"]


def test_no_message_forges_a_control_token(found: Any) -> None:
    """The third question spells two: to transformers they are control tokens, to ours they are text."""
    assert found["conversations"][:2] == found["their conversations"][:2]
    assert found["conversations"][2] != found["their conversations"][2]
    assert len({*found["control tokens"]}) == 1


def test_the_harness_scores_it(found: Any) -> None:
    assert 0 <= found["harness"]["example_choice/acc"] <= 1


def test_the_files_of_the_tokenizer_come_back_byte_for_byte(found: Any) -> None:
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= found["files"].keys()
    assert all(found["files"].values()), found["files"]
