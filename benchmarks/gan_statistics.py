"""What batch statistics of its own are worth to the average of a generator's weights.

    python benchmarks/gan_statistics.py [--out FOLDER]

Trains configs/gan/digits.yaml and the classifier that scores it through the real commands, and scores the
moving average at three checkpoints twice, by `pretrain eval`: with statistics that are measured anew, and
with those of the live network, as before, from the same noise. What FOLDER has already is not trained again.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from unittest import mock

from measure import RESULTS, ROOT, Report, Table

from evals.families.gan import evaluate_gan
from evals.images.options import ImageEvalOptions
from pretrain.distributed.world import DistContext, init_distributed

CONFIGS = ROOT / "configs"
STEPS = (1000, 3000, 5000)
SEEDS = (1234, 1, 2, 3)
IMAGES = 1297
"""As many as there are for training."""
METRICS = {"fd_digits_cnn": ("Frechet distance", ".1f"), "kid_digits_cnn": ("KID", ".4f")}


def pretrain(folder: Path, *arguments: str) -> None:
    """Run a command in a folder."""
    subprocess.run([sys.executable, "-m", "pretrain", *arguments], cwd=folder, check=True, stdout=sys.stderr)


def train(folder: Path) -> None:
    """Digits, the classifier and the GAN, as docs/gan.md has them."""
    images = "data images --size 16 --channels 1 --input data/digits"
    untracked, keep = "tracking.enabled=false", "checkpoint.keep_last=9"
    steps = {
        "data/digits": "data embedded --corpus digits --output data",
        "data/digits-16": f"{images}/train --output data/digits-16",
        "data/digits-test": f"{images}/test --output data/digits-test --classes data/digits-16",
        "runs/digits-cnn": f"train {CONFIGS}/cnn/digits.yaml data.train=data/digits-16 {untracked}",
        "runs/gan-digits": f"train {CONFIGS}/gan/digits.yaml {keep} {untracked}",
    }
    for result, command in steps.items():
        if not (folder / result).exists():
            pretrain(folder, *command.split())


def score(world: DistContext, folder: Path, step: int, seed: int, *, live: bool) -> Mapping[str, float]:
    """What `pretrain eval` says of a checkpoint's average against the held-out digits; `live` as it was."""
    extractor = str(folder / "runs" / "digits-cnn")
    with mock.patch("pretrain.gan.restore.measure_statistics") if live else nullcontext():
        return evaluate_gan(
            folder / "runs" / "gan-digits" / "checkpoints" / f"step-{step:08d}",
            world,
            stride=None,
            data=[str(folder / "data" / "digits-test")],
            images=ImageEvalOptions(extractor=extractor, samples=IMAGES, seed=seed),
            overrides=[f"data.train={folder / 'data' / 'digits-16'}"],
            say=lambda line: print(line, file=sys.stderr),
        ).metrics


def row(
    step: int, metric: str, live: Sequence[Mapping[str, float]], anew: Sequence[Mapping[str, float]]
) -> tuple[str, ...]:
    """A metric of a checkpoint: both ways, and how much less it is anew."""
    name, form = METRICS[metric]
    before, after = ([each[metric] for each in scores] for scores in (live, anew))
    numbers = [f"{fmean(each):{form}} ({min(each):{form}} to {max(each):{form}})" for each in (before, after)]
    less = sum(b < a for a, b in zip(before, after, strict=True))
    change = fmean(after) / fmean(before) - 1
    return f"{step:,}", name, *numbers, f"{change:+.1%}", f"{less} of {len(SEEDS)}"


def measure(folder: Path) -> Report:
    """Train, and score every checkpoint with every seed both ways."""
    train(folder)
    rows = []
    with init_distributed() as world:
        for step in STEPS:
            found = {
                live: [score(world, folder, step, seed, live=live) for seed in SEEDS]
                for live in (True, False)
            }
            rows += [row(step, metric, found[True], found[False]) for metric in METRICS]
    question = (
        f"The moving average of configs/gan/digits.yaml: {IMAGES:,} of its images against the 500 held-out "
        "digits, in the features of configs/cnn/digits.yaml, by `pretrain eval`. Mean and range of the seeds "
        f"{', '.join(map(str, SEEDS))}. Live: the running statistics of the network in training. Anew: "
        "measured over 1,024 generated images."
    )
    header = ("step", "metric", "live", "anew", "anew / live", "seeds with less")
    return Report("gan-statistics", question, [Table(header, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    folder = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="gan-statistics-"))
    began = time.perf_counter()
    text = measure(folder.resolve()).markdown(time.perf_counter() - began)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-gan-statistics.md").write_text(text)


if __name__ == "__main__":
    main()
