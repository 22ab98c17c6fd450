"""Fine-tuning on conversations, by real ranks and commands: every layout, resume, and answers learnt."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_runs import CONFIG, PAIRS, gpt_run, overrides_for, write_pairs
from ranks import run_pretrain, run_ranks

from pretrain.errors import UserError
from pretrain.gpt.chat.talk import require_template
from pretrain.gpt.chat.template import FILE, ChatTemplate
from pretrain.megatron.restore import open_saved_model

WORKER = Path(__file__).with_name("chat_worker.py")
STEPS = 4
LAYOUTS = {
    "TP2+SP": ["parallel.tensor=2", "parallel.sequence=true"],
    "PP2": ["parallel.pipeline=2", "batch.micro_size=1"],
    "DP2": ["parallel.distributed_optimizer=true", "batch.micro_size=1"],
    "CP2": ["parallel.context=2"],
}
SUMS = [(f"{a} + {b}?", str(a + b) * (1 + a % 3)) for a in range(4) for b in range(4)]
"""Answers of different lengths, so that ranks have different numbers of labels."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_run(tmp_path_factory.mktemp("gpt") / "run")


def curves(processes: int, runs: dict[str, Any], output: Path) -> dict[str, Any]:
    asked = {"output": str(output), "steps": STEPS, "config": str(CONFIG), "runs": runs}
    done = run_ranks(WORKER, processes, asked)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_the_loss_is_that_of_answers_alone_however_they_are_laid_out(tmp_path: Path) -> None:
    """In one process: packed, apart, and spoiled in ways that must or must not matter; then other layouts."""
    gpt = gpt_run(tmp_path / "gpt", 0.3)  # attention matters
    short = write_pairs(tmp_path / "short.jsonl", [(prompt[:2], answer[:4]) for prompt, answer in PAIRS])
    sums, dev = (
        write_pairs(tmp_path / f"{name}.jsonl", part) for name, part in (("sums", SUMS), ("dev", SUMS[:7]))
    )
    together = overrides_for(gpt, short, tmp_path / "run", "batch.global_size=1", "batch.micro_size=1")
    apart = overrides_for(gpt, short, tmp_path / "run", "data.packing=false")
    base = overrides_for(gpt, sums, tmp_path / "run", f"data.validation={dev}", "batch.micro_size=2")
    one = curves(
        1,
        {
            "together": {"overrides": together},
            "apart": {"overrides": apart},
            "leak": {"overrides": together, "spoil": "leak"},
            "base": {"overrides": base},
            "other prompts": {"overrides": base, "spoil": "labels of prompts"},
            "other answers": {"overrides": base, "spoil": "labels of answers"},
        },
        tmp_path / "one.json",
    )
    for key in ("losses", "norms"):
        assert one["together"][key] == pytest.approx(one["apart"][key], abs=1e-5)
        assert one["leak"][key] != pytest.approx(one["apart"][key], abs=1e-3)
        assert one["other prompts"][key] == one["base"][key]
        assert one["other answers"][key] != pytest.approx(one["base"][key], abs=1e-3)
    assert one["base"]["validation"]["validation_accuracy"] > 0
    runs = {name: {"overrides": list(_last([*base, *more]))} for name, more in LAYOUTS.items()}
    for name, found in curves(2, runs, tmp_path / "many.json").items():
        for key in ("losses", "norms", "accuracies", "validation"):
            assert found[key] == pytest.approx(one["base"][key], abs=1e-5), (name, key)


def _last(overrides: list[str]) -> Any:
    return {text.partition("=")[0]: text for text in overrides}.values()


@pytest.fixture(scope="module")
def learnt(gpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows four answers by heart; its checkpoint of step 60 is kept."""
    folder = tmp_path_factory.mktemp("learnt")
    train = write_pairs(folder / "train.jsonl", PAIRS)
    done = run_pretrain("train", str(CONFIG), *training(gpt, train, folder / "run"))
    assert done.returncode == 0, done.stderr
    assert "4 conversations in 2 sequences, which they fill to" in done.stderr + done.stdout
    return folder / "run"


def training(gpt: Path, train: Path, run: Path) -> list[str]:
    more = ["run.steps=120", "checkpoint.every=60", f"data.validation={train.with_name('dev.jsonl')}"]
    write_pairs(train.with_name("dev.jsonl"), PAIRS[1:])
    return overrides_for(gpt, train, run, "batch.global_size=2", "batch.micro_size=2", *more)


def test_a_resumed_run_is_the_uninterrupted_one(gpt: Path, learnt: Path, tmp_path: Path) -> None:
    run = shutil.copytree(learnt, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "step-00000120")
    (run / "checkpoints" / "latest").write_text("step-00000060\n")
    done = run_pretrain("train", str(CONFIG), *training(gpt, learnt.parent / "train.jsonl", run))
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stderr + done.stdout
    first, again = (open_saved_model(path).checkpoint for path in (learnt, run))
    assert first.step == again.step == 120
    for key in sorted(first.index):
        assert first.read(key).equal(again.read(key)), key
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "validation_accuracy" in line][-1]["validation_accuracy"] == 1.0


def test_what_was_learnt_is_answered(learnt: Path) -> None:
    asked = [f"--prompt={prompt}" for prompt, _ in PAIRS]
    layout = ["--processes", "2", "parallel.tensor=2"]
    done = run_pretrain("generate", str(learnt), "--chat", "--greedy", *asked, *layout)
    assert done.returncode == 0, done.stderr
    expected = "".join(f"=== {n} of 4\n{answer}\n" for n, (_, answer) in enumerate(PAIRS, 1))
    assert done.stdout == expected
    done = run_pretrain("generate", str(learnt), "--chat", "--greedy", "--max-tokens=3", input="\nblue?\n")
    assert (done.returncode, done.stdout) == (0, "the\n")
    assert "the answer is cut off after 3 tokens" in done.stderr


def test_a_conversation_at_a_terminal(learnt: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pretrain", "generate", str(learnt), "--chat", "--greedy"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, b"red?\n/reset\ngreen?\n/exit\n")
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
        assert process.stderr is not None
        assert process.wait(60) == 0, process.stderr.read().decode()
    os.close(ours)
    said = seen.decode().replace("\r", "")
    assert "\nfire\n" in said
    assert "the conversation begins anew" in said
    assert "\ngrass\n" in said


def test_an_export_asks_with_the_same_tokens_and_answers_alike(learnt: Path, tmp_path: Path) -> None:
    worker = str(Path(__file__).with_name("chat_export_worker.py"))
    command = [sys.executable, worker, str(learnt), str(tmp_path), *(prompt for prompt, _ in PAIRS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / FILE).read_text() == ChatTemplate.default().source
    assert json.loads(done.stdout.splitlines()[-1]) == [answer for _, answer in PAIRS]
    require_template(open_saved_model(tmp_path / "back"))


def test_a_checkpoint_without_a_template_holds_no_conversation(gpt: Path) -> None:
    with pytest.raises(UserError, match="has no chat template: it was not trained on conversations"):
        require_template(open_saved_model(gpt))
