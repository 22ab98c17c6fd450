"""What it takes to add a kind of model, a new folder and one line; an optimizer, a file and one line; or a
loss of a GAN, one record.

A copy of the product gets it, and the copy's own commands do with it what they do with any.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from config_files import REPOSITORY
from image_shards import build_image_shards
from text_shards import build_shards

from pretrain.checkpoint import open_checkpoint
from pretrain.kinds import RECORDS, every_kind

pytestmark = pytest.mark.slow
ROOMS = ("data_tools", "pretrain", "evals", "slurm")
LINE = '        "polynomial": "pretrain.polynomial.kind:POLYNOMIAL",\n'
CONFIG = """
run: {dir: run, steps: 6}
model: {kind: polynomial, degree: 2}
batch: {global_size: 8, micro_size: 2}
optimizer: {lr: 0.1, weight_decay: 0}
schedule: {kind: constant}
data: {train: points.txt}
checkpoint: {every: 3}
tracking: {enabled: false}
slurm: {nodes: 1, tasks_per_node: 2, time: "10:00"}
"""
LAST_LOSS = '        "relativistic": GanLoss('
LEAST_SQUARES = """\
        "least_squares": GanLoss(
            source="Mao et al. 2017",
            discriminator=lambda real_B, fake_B: ((real_B - 1).square().mean() + fake_B.square().mean()) / 2,
            generator=lambda fake_B, _: (fake_B - 1).square().mean() / 2,
            tie=0.25,
        ),
"""
GAN = """
run: {{dir: gan, steps: 2}}
model: {{kind: gan, architecture: mlp, image_size: 16, latent_size: 4, generator_channels: 1}}
batch: {{global_size: 4}}
optimizer: {{lr: 1e-3}}
loss: {{kind: least_squares}}
data: {{train: {shards}}}
tracking: {{enabled: false}}
"""


LION_LINE = '        "lion": OptimizerRecord("Chen et al. 2023", Late("pretrain.lion:make"), ("exp_avg",)),\n'
LION = """\
import torch

class Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in (each for each in group["params"] if each.grad is not None):
                mean = self.state[weight]["exp_avg"]
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(torch.sign(torch.lerp(weight.grad, mean, beta1)), alpha=group["lr"])
                mean.lerp_(weight.grad, 1 - beta2)

def make(groups, settings):
    return Lion(groups, {"lr": settings.lr, "betas": (settings.beta1, settings.beta2)})
"""


GPT = """
run: {dir: gpt, steps: 1}
model: {kind: gpt, num_layers: 1, hidden_size: 16, num_attention_heads: 2}
batch: {global_size: 4, sequence_length: 16}
optimizer: {kind: lion, lr: 0.01, weight_decay: 0}
schedule: {kind: constant}
data: {train: shards}
checkpoint: {every: 1}
tracking: {enabled: false}
"""


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for room in ROOMS
        for path in (folder / room).rglob("*.py")
    }


def copied(folder: Path) -> Path:
    """The product in another folder."""
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / room, folder / room, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with one more kind of model."""
    folder = copied(tmp_path_factory.mktemp("product"))
    toy = folder / "pretrain" / "polynomial"
    shutil.copytree(Path(__file__).parent / "toy_family", toy, ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "pretrain" / "kinds.py"
    last = list(RECORDS)[-1]
    lines = table.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.strip().startswith(f'"{last}":'))
    table.write_text("".join([*lines[: place + 1], LINE, *lines[place + 1 :]]))
    (folder / "points.txt").write_text(
        "".join(f"{x / 16} {1 + 2 * x / 16 - (x / 16) ** 2}\n" for x in range(32))
    )
    (folder / "a.yaml").write_text(CONFIG)
    return folder


def pretrain(product: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pretrain", *arguments]
    return subprocess.run(command, cwd=product, capture_output=True, text=True, timeout=300)


def answer(product: Path, *arguments: str) -> str:
    done = pretrain(product, *arguments)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def refusal(product: Path, *arguments: str) -> str:
    done = pretrain(product, *arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_kind_is_a_folder_and_one_line(product: Path) -> None:
    before, after = files_of(REPOSITORY), files_of(product)
    new = after.keys() - before.keys()
    assert {Path(name).parent.as_posix() for name in new} == {"pretrain/polynomial"}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["pretrain/kinds.py"]
    assert after["pretrain/kinds.py"].replace(LINE, "") == before["pretrain/kinds.py"]


def test_its_config_is_checked_with_its_own_rules_and_its_own_data(product: Path) -> None:
    said = answer(product, "check", "a.yaml", "--processes", "2")
    assert "parameters 3" in said and "points 32" in said and "no problem found" in said
    wrong = refusal(product, "check", "a.yaml", "model.degree=0", "batch.global_size=6", "--processes", "2")
    assert "2 problems" in wrong
    assert "model.degree: a constant needs no batch of 6 (nearest legal: model.degree 1" in wrong
    assert "6 points are not a multiple of micro_size x processes = 2 x 2" in wrong
    missing = refusal(product, "check", "a.yaml", "data.train=none")
    assert "command line: data.train: none: " in missing
    unknown = refusal(product, "check", "a.yaml", "model.kind=polynom")
    assert f"must be {' or '.join([*RECORDS, 'polynomial'])}, got 'polynom' (did you mean 'polyn" in unknown
    belongs = refusal(product, "check", "a.yaml", "model.cell=gru")
    assert "'cell' has no effect here: it belongs to model.kind rnn" in belongs


def test_it_is_tried_at_its_full_size_without_a_gpu(product: Path) -> None:
    said = answer(product, "train", "a.yaml", "--dry-run", "--processes", "4")
    assert "data: opened, 32 points" in said
    assert "built for the last of 4 ranks" in said
    assert said.endswith("the host waits for its GPU 1 time this would run")


def test_it_is_submitted_as_any_other(product: Path) -> None:
    assert "polynomial in" in answer(product, "submit", "a.yaml", "--dry-run")


def test_it_trains_on_ranks_and_resumes(product: Path) -> None:
    answer(product, "train", "a.yaml", "--processes", "2")
    answer(product, "train", "a.yaml", "run.steps=9")
    lines = [json.loads(line) for line in (product / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert sorted(losses) == list(range(1, 10))
    assert losses[9] < losses[1] / 2
    assert lines[-1]["points"] == 72
    told = answer(product, "status", "run")
    assert "state finished" in told and "step 9/9" in told and "points/s" in told


@pytest.mark.parametrize("command", ["plan", "eval", "generate", "export"])
def test_what_it_has_not_is_told_plainly(product: Path, command: str) -> None:
    """The kinds that have it are those whose records say so."""
    if command != "plan" and not (product / "run").exists():
        answer(product, "train", "a.yaml")
    said = {
        "plan": ("a.yaml",),
        "eval": ("run",),
        "generate": ("run", "--prompt", "1"),
        "export": ("run", "out"),
    }
    wrong = refusal(product, command, *said[command])
    assert "polynomial" in wrong
    members = {"plan": "planning", "eval": "evaluation", "generate": "generation", "export": "export"}
    having = [kind.name for kind in every_kind() if getattr(kind, members[command]) is not None]
    named = wrong.rpartition(":")[2] if command == "eval" else wrong
    for name in having:
        assert name in named


def test_a_loss_of_a_gan_is_one_record(tmp_path: Path) -> None:
    """Least squares (Mao et al. 2017): offered by the config, told of by the docs, and played."""
    product = copied(tmp_path / "product")
    table = product / "pretrain" / "config" / "gan_losses.py"
    text = table.read_text()
    table.write_text(text.replace(LAST_LOSS, LEAST_SQUARES + LAST_LOSS))
    before, after = files_of(REPOSITORY), files_of(product)
    assert [name for name in after if before.get(name) != after[name]] == ["pretrain/config/gan_losses.py"]
    shards = build_image_shards(product / "shards", size=16, channels=1)
    (product / "gan.yaml").write_text(GAN.format(shards=shards))
    wrong = refusal(product, "check", "gan.yaml", "--no-data", "loss.kind=least_square")
    assert "or least_squares or relativistic, got 'least_square' (did you mean 'least_squares'?)" in wrong
    said = answer(product, "train", "gan.yaml", "--dry-run", "--processes", "2")
    assert said.endswith("this would run")
    done = subprocess.run(
        [sys.executable, "-c", "from pretrain.config.docs import config_page; print(config_page())"],
        cwd=product,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "least_squares: Mao et al. 2017." in done.stdout


def test_an_optimizer_is_a_file_and_one_line(tmp_path: Path) -> None:
    """Lion (Chen et al. 2023, algorithm 2): a GPT trains with it, sharded, and resumes on another layout; the
    second update moves each weight by the learning rate, in the direction of a sign."""
    product = copied(tmp_path / "product")
    (product / "pretrain" / "lion.py").write_text(LION)
    table = product / "pretrain" / "config" / "optimizers.py"
    last = "        ADAMW: OptimizerRecord("
    table.write_text(table.read_text().replace(last, LION_LINE + last))
    before, after = files_of(REPOSITORY), files_of(product)
    assert after.keys() - before.keys() == {"pretrain/lion.py"}
    assert [name for name in before if before[name] != after[name]] == ["pretrain/config/optimizers.py"]
    build_shards(
        product / "shards", [f"document {number} has words and {number * 7} more" for number in range(40)]
    )
    (product / "gpt.yaml").write_text(GPT)
    wrong = refusal(product, "check", "--no-data", "gpt.yaml", "optimizer.kind=lien")
    assert "must be lion or adamw, got 'lien' (did you mean 'lion'?)" in wrong
    answer(product, "train", "gpt.yaml", "parallel.distributed_optimizer=true", "--processes", "2")
    answer(product, "train", "gpt.yaml", "run.steps=2")
    one, two = (open_checkpoint(product / "gpt" / "checkpoints" / f"step-0000000{step}") for step in (1, 2))
    for key in one.keys("weights"):
        moved = (two.read(key) - one.read(key)).abs()
        rate = torch.full_like(moved[moved > 0], 0.01)
        torch.testing.assert_close(moved[moved > 0], rate, rtol=1e-3, atol=0)
        assert f"optimizer.exp_avg.{key}" in set(two.keys("optimizer"))
    assert not any("exp_avg_sq" in key for key in two.keys("optimizer"))
