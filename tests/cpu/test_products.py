"""How a method for products is chosen: by times, the same on all ranks, in all jobs of a run, and kept."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from config_files import write_config
from ranks import run_ranks
from small_run import config_for, open_run
from text_shards import build_shards
from torch import Tensor

from pretrain.cpu.linear import linear
from pretrain.cpu.products import settle, trial
from pretrain.cpu.products.choice import CLASSES, VARIABLE, Choice, available_here, in_force, parse
from pretrain.cpu.products.method import Torch, Widened
from pretrain.cpu.products.settle import BEFORE, FACT, Settled, as_begun
from pretrain.cpu.products.trial import GAIN, Trial, cache_file, known_trial, machine, measure
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder

WORKER = Path(__file__).with_name("products_worker.py")
ALL = (("fp32", "torch"), ("fp32", "onednn"), ("bf16", "torch"), ("bf16", "onednn"), ("bf16", "widened"))
NO_BF16 = tuple(pair for pair in ALL if pair != ("bf16", "onednn"))


class Slow(Torch):
    """A method that burns 20 ms of the processor before each product."""

    def forward(self, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        burn()
        return super().forward(x_MI, weight_OI, bias_O)

    def input_gradient(self, gradient_MO: Tensor, weight_OI: Tensor) -> Tensor:
        burn()
        return super().input_gradient(gradient_MO, weight_OI)

    def weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
        burn()
        return super().weight_gradient(gradient_MO, x_MI)


def burn() -> None:
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass


def times(**faster: float) -> Trial:
    """A trial in which oneDNN takes 2 s and torch 1, but for classes of which `faster` says otherwise."""
    return Trial(
        machine(),
        {each: {"torch": 1.0, "onednn": faster.get(each.replace(".", "_"), 2.0)} for each in CLASSES},
        0.1,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE)
    return tmp_path / "cache" / "pretrain"


@pytest.mark.parametrize("slow", ["torch", "onednn"])
def test_the_choice_follows_the_times(slow: str) -> None:
    methods = {"torch": Torch(), "onednn": Torch(), slow: Slow()}
    found = measure({}, methods).choice(ALL)
    other = "onednn" if slow == "torch" else "torch"
    assert found.text == f"fp32={other},bf16={other}"


def test_a_real_trial_is_whole() -> None:
    """Of every class there is a time of every method that this processor has."""
    found = measure(machine())
    for each, own in found.times.items():
        assert {(each.split(".")[0], name) for name in own} <= set(available_here())
        assert "torch" in own
        assert min(own.values()) > 0
    assert found.choice(available_here()).lacking(available_here()) == []


def test_each_class_is_judged_by_itself_and_noise_is_no_reason() -> None:
    found = times(fp32_few=0.3, fp32_weight_gradient=0.9 * GAIN, fp32_forward=0.5 + GAIN / 2).choice(ALL)
    assert found.text == "fp32=torch,fp32.few=onednn,fp32.weight_gradient=onednn,bf16=torch"
    without = times(bf16_few=0.3).choice(NO_BF16)
    assert without.text == "fp32=torch,bf16=torch"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("torch", "fp32=torch,bf16=torch"),
        ("onednn", "fp32=onednn,bf16=onednn"),
        ("fp32=onednn", "fp32=onednn,bf16=torch"),
        (" onednn , bf16.few=widened", "fp32=onednn,bf16=onednn,bf16.few=widened"),
        ("widened", "fp32=torch,bf16=widened"),
    ],
)
def test_what_can_be_asked_for(text: str, meant: str) -> None:
    found = parse(text, ALL)
    assert found.text == meant
    assert parse(found.text, ALL) == found


def test_every_choice_is_read_as_it_is_written() -> None:
    draw = torch.Generator().manual_seed(3)
    for _ in range(100):
        codes = torch.randint(2, (len(CLASSES),), generator=draw).tolist()
        choice = Choice(tuple(("torch", "onednn")[code] for code in codes))
        assert parse(choice.text, ALL) == choice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("onednnn", "PRETRAIN_CPU_PRODUCTS=onednnn: 'onednnn' names no method; did you mean 'onednn'?"),
        ("bf61=torch", "no products are 'bf61'; did you mean 'bf16'?"),
        ("fp32.weigth_gradient=torch", "did you mean 'fp32.weight_gradient'?"),
        ("fp32=widened", "'fp32=widened' cannot be had"),
        ("bf16=onednn", "'bf16=onednn' cannot be had"),
        ("fp32=", "names no method; there are torch, onednn, widened"),
    ],
)
def test_what_cannot_be_asked_for(text: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(text, NO_BF16)
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_trial_is_kept_for_its_user_and_taken_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = known_trial()
    (file,) = home.iterdir()
    assert file == cache_file(machine(), os.environ)
    assert file.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(trial, "measure", lambda *_: pytest.fail("measured again"))
    assert known_trial() == first
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cache_file(machine(), os.environ) != file


@pytest.mark.parametrize(
    "damage",
    ["cut", "unknown method", "class missing", "not torch", "other machine", "open", "folder", "link"],
)
def test_a_file_that_is_damaged_or_not_ours_is_measured_again(
    damage: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = known_trial()
    (file,) = home.iterdir()
    tree = json.loads(file.read_text())
    if damage == "unknown method":
        tree["times"][CLASSES[0]]["magic"] = 0.0
    elif damage == "class missing":
        del tree["times"][CLASSES[0]]
    elif damage == "not torch":
        del tree["times"][CLASSES[0]]["torch"]
    elif damage == "other machine":
        tree["machine"]["torch"] = "1.0"
    file.write_text(json.dumps(tree)[: 50 if damage == "cut" else None])
    if damage == "open":
        file.chmod(0o666)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "link":
        file.rename(home / "elsewhere")
        file.symlink_to(home / "elsewhere")
    new = replace(kept, took=kept.took + 1)
    monkeypatch.setattr(trial, "measure", lambda *_: new)
    assert known_trial() == new
    monkeypatch.setattr(trial, "measure", lambda *_: kept)
    assert known_trial() == (kept if damage == "folder" else new)


def test_where_no_file_can_be_kept_it_is_measured_each_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    made = []
    monkeypatch.setattr(trial, "measure", lambda *_: made.append(times()) or made[-1])
    assert known_trial() is made[0]
    assert known_trial() is made[1]


def test_products_are_those_of_the_choice_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(kind: type, name: str) -> None:
        for work in ("forward", "input_gradient", "weight_gradient"):
            real = getattr(kind, work)

            def told(self: object, *given: Tensor, work: str = work, real: object = real) -> Tensor:
                asked.append((name, work))
                return real(self, *given)  # type: ignore[operator]

            monkeypatch.setattr(kind, work, told)

    spy(Torch, "torch")
    spy(Widened, "widened")
    monkeypatch.setenv(VARIABLE, "bf16=torch,bf16.few=widened,bf16.weight_gradient=widened")
    weight = torch.randn(4, 8, dtype=torch.bfloat16).requires_grad_()
    for rows, first in ((17, "torch"), (16, "widened")):
        asked.clear()
        x = torch.randn(rows, 8, dtype=torch.bfloat16).requires_grad_()
        linear(x, weight).sum().backward()
        outer = [
            each for each, before in zip(asked, [("", ""), *asked], strict=False) if before[0] != "widened"
        ]
        assert outer == [(first, "forward"), ("torch", "input_gradient"), ("widened", "weight_gradient")]


def test_the_environment_is_put_back(home: Path) -> None:
    with settle.settled(0, 1) as found:
        assert in_force() == found.choice
        assert not found.asked
    assert VARIABLE not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["auto", "bf16=onednn"])
def test_all_ranks_take_what_rank_0_decides_among_what_all_have(
    asked: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 has no oneDNN in bf16, and a trial of its own that says the opposite of rank 0's."""
    monkeypatch.setenv(VARIABLE, asked)
    done = run_ranks(WORKER, 2, {"folder": str(tmp_path)})
    said = [path.read_text() for path in (tmp_path / "0", tmp_path / "1") if path.exists()]
    if asked == "auto":
        assert done.returncode == 0, done.stderr
        assert said == ["fp32=onednn,bf16=widened, asked False"] * 2
    else:
        assert said == []
        assert "'bf16=onednn' cannot be had" in done.stderr


def recorded(folder: Path, text: str) -> RunFolder:
    """A run that began with this choice."""
    with open_run(config_for(folder, None, enabled=False)) as run:
        run.begin(0, {FACT: text} if text != BEFORE else {"device": "cpu"})
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("began", "asked", "now", "said"),
    [
        ("", False, "fp32=torch,bf16=torch", "as measured"),
        ("fp32=torch,bf16=torch", False, "fp32=torch,bf16=torch", "as the run began"),
        (
            "fp32=onednn,bf16=torch",
            False,
            "fp32=onednn,bf16=torch",
            "as the run began; measured here: fp32=torch",
        ),
        ("fp32=onednn,bf16=torch", True, "fp32=torch,bf16=torch", "but the run began with fp32=onednn"),
        (BEFORE, False, "fp32=onednn,bf16=torch", "as the run began; measured here: fp32=torch"),
        ("fp32=torch,bf16=onednn", False, "fp32=torch,bf16=torch", "not every rank has here"),
    ],
)
def test_a_resume_takes_what_the_run_began_with_or_tells(
    began: str,
    asked: bool,
    now: str,
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = recorded(tmp_path / "run", began)
    settled = Settled(parse("torch", NO_BF16), asked, NO_BF16)
    with caplog.at_level("INFO"):
        found = as_begun(settled, folder, lambda act: act())
    assert found.choice.text == now
    (line,) = [record for record in caplog.records if "products on the CPU" in record.message]
    assert said in line.message
    assert (
        ("last digits" in line.message) == (line.levelname == "WARNING") == (began not in ("", BEFORE, now))
    )


def run_small(folder: Path, steps: int) -> list[float]:
    """The losses of `pretrain train` with a checkpoint every two steps, and what it says of products."""
    config = write_config(
        folder.with_suffix(".yaml"),
        run={"dir": str(folder), "steps": steps},
        data={"train": str(folder.parent / "shards")},
        schedule={"kind": "constant"},
        checkpoint={"every": 2},
        tracking={"enabled": False},
    )
    command = [sys.executable, "-m", "pretrain", "train", config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_machine_that_measures_otherwise_changes_no_bit_of_a_run(home: Path, tmp_path: Path) -> None:
    build_shards(tmp_path / "shards", ["some text " * 30] * 12)
    file, run = cache_file(machine(), os.environ), tmp_path / "run"
    trial._write(file, times(**{each.replace(".", "_"): 0.5 for each in CLASSES}))
    straight = run_small(tmp_path / "straight", 4)
    run_small(run, 2)
    before = (run / "logs" / "rank-0000.log").read_text()
    assert "products on the CPU: fp32=onednn" in before
    trial._write(file, times())
    assert run_small(run, 4) == straight
    after = (run / "logs" / "rank-0000.log").read_text()[len(before) :]
    assert "as the run began; measured here: fp32=torch,bf16=torch" in after
    assert json.loads((run / "status.json").read_text())["facts"][FACT].startswith("fp32=onednn")
    assert run_small(tmp_path / "other", 4) != straight  # or nothing of this would be seen
