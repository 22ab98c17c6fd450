"""The GAN of `pretrain quickstart`, and the classifier whose features judge it."""

import json
from pathlib import Path

from pretrain.commands.quickstart.runner import Runner, SummaryRow, fact, learning, shown

SIZE = ("--size", "16", "--channels", "1")


def gan(runner: Runner) -> list[SummaryRow]:
    """A GAN on handwritten digits: two DeepSpeed engines, scored against held-out images."""
    digits, train, test, judge, run, result = (
        runner.path(name)
        for name in ("digits", "digits-train", "digits-test", "digits-cnn", "gan", "distances.json")
    )
    _, seconds = runner.run("data", "embedded", "--corpus", "digits", "--output", digits)
    rows = [SummaryRow("images", "scikit-learn's handwritten digits", seconds)]
    for part, shards in (("train", train), ("test", test)):
        said, seconds = runner.run(
            "data", "images", "--input", f"{digits}/digits/{part}", *SIZE, "--output", shards
        )
        rows.append(SummaryRow(f"shards: {part}", fact(said).rpartition(", ")[0], seconds))
    _, seconds = runner.run(
        *("train", runner.preset("cnn/digits", "digits-cnn"), f"run.dir={judge}"),
        *(f"data.train={train}", f"data.validation={test}"),
    )
    rows.append(SummaryRow("classifier", learning(Path(judge)), seconds))
    config = runner.preset("gan/quickstart", "gan")
    _, seconds = runner.run("train", config, f"run.dir={run}", f"data.train={train}")
    rows.append(SummaryRow("training", f"sample grids in {run}", seconds))
    _, seconds = runner.run("eval", run, "--extractor", judge, "--data", test, "--json", result)
    metrics = json.loads(Path(result).read_text())["metrics"]
    distance = next(value for name, value in metrics.items() if name.startswith("fd_"))
    score = f"Frechet distance {distance:.0f} in the classifier's features to held-out digits"
    rows.append(SummaryRow("evaluation", score, seconds))
    _, seconds = runner.run("generate", run, "--output", runner.path("digits.png"))
    return [*rows, SummaryRow("picture", shown(Path(runner.path("digits.png"))), seconds)]
