"""The BERT of `pretrain quickstart`."""

import json
from pathlib import Path

from pretrain.commands.quickstart.runner import Runner, SummaryRow, fact, learning, picture

VOCAB_SIZE = 2048


def bert(runner: Runner) -> list[SummaryRow]:
    """A BERT on English: sentence pairs, two data-parallel processes, sequences that grow."""
    text, tokenizer, shards, run, result = (
        runner.path(name)
        for name in ("english", "english-tokenizer", "english-shards", "bert", "masked.json")
    )
    said, seconds = runner.run("data", "embedded", "--corpus", "english", "--output", text)
    rows = [SummaryRow("text", f"Python's language reference and docstrings, {fact(said)}", seconds)]
    said, seconds = runner.run(
        *("data", "tokenizer", "--input", text, "--model-type", "bpe", "--bert"),
        *("--vocab-size", str(VOCAB_SIZE), "--output", tokenizer),
    )
    rows.append(SummaryRow("tokenizer", fact(said), seconds))
    said, seconds = runner.run(
        *("data", "build", "--input", text, "--sentences", "split"),
        *("--tokenizer", tokenizer, "--output", shards),
    )
    rows.append(SummaryRow("shards", fact(said).rpartition(", ")[0], seconds))
    config = runner.preset("bert/quickstart", "bert")
    _, seconds = runner.run("train", config, "--processes", "2", f"run.dir={run}", f"data.train={shards}")
    rows.append(SummaryRow("training", learning(Path(run)), seconds))
    _, seconds = runner.run("eval", run, "--json", result)
    metrics = json.loads(Path(result).read_text())["metrics"]
    score = (
        f"{metrics['mlm_accuracy']:.1%} of masked tokens right (always the most frequent: "
        f"{metrics['mlm_baseline_accuracy']:.1%}), {metrics['nsp_accuracy']:.1%} of next sentences"
    )
    rows.append(SummaryRow("evaluation", score, seconds))
    return [*rows, picture(Path(run))]
