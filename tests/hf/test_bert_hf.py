"""Our BERT against Hugging Face's, on copied weights: MegatronBERT has the norms before, BERT after."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("bert_hf_worker.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(WORKER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_logits_equal_hugging_face(found: Any, norm_position: str) -> None:
    """At every position that is not padding, in a batch with padding; and of the next sentence."""
    differences = found[norm_position]
    assert differences["missing"] == []
    assert differences["scale"] > 1
    assert differences["masked"] <= 1e-5
    assert differences["next_sentence"] <= 1e-5
    assert differences["padding"], "rows that pad the vocabulary must have no probability"


def test_sizes_are_the_published_ones(found: Any) -> None:
    """Those of `BertForPreTraining`: 110 and 340 million with a vocabulary of 30,522."""
    assert found["parameters"] == {
        "base": {"ours": 110_106_428, "by formula": 110_106_428, "theirs": 110_106_428},
        "large": {"ours": 336_226_108, "by formula": 336_226_108, "theirs": 336_226_108},
    }
