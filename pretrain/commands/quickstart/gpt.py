"""The GPT of `pretrain quickstart`."""

import json
from pathlib import Path

from pretrain.commands.quickstart.runner import Runner, SummaryRow, fact, learning, picture
from pretrain.errors import named
from pretrain.tracking.evaluations import log_picture

PROMPT = "def __init__(self"
VOCAB_SIZE = 2048


def gpt(runner: Runner) -> list[SummaryRow]:
    """A GPT on the source of the standard library: tensor parallel over two processes."""
    out = runner.out
    text, tokenizer, shards, run, result = (
        str(out / name) for name in ("text", "tokenizer", "shards", "gpt", "perplexity.json")
    )
    _, seconds = runner.run("data", "embedded", "--corpus", "stdlib", "--output", text)
    rows = [SummaryRow("text", "the source of Python's standard library", seconds)]
    said, seconds = runner.run(
        *("data", "tokenizer", "--input", text, "--model-type", "bpe"),
        *("--vocab-size", str(VOCAB_SIZE), "--output", tokenizer),
    )
    rows.append(SummaryRow("tokenizer", fact(said), seconds))
    said, seconds = runner.run("data", "build", "--input", text, "--tokenizer", tokenizer, "--output", shards)
    # The command's own time is left out.
    rows.append(SummaryRow("shards", fact(said).rpartition(", ")[0], seconds))
    config = runner.preset("gpt/quickstart", "gpt")
    _, seconds = runner.run("train", config, "--processes", "2", f"run.dir={run}", f"data.train={shards}")
    rows.append(SummaryRow("training", learning(Path(run)), seconds))
    _, seconds = runner.run("eval", run, "--json", result)
    metrics = json.loads(Path(result).read_text())["metrics"]
    score = (
        f"perplexity {metrics['token_perplexity']:.1f} by token (guessing: {VOCAB_SIZE:,}), "
        f"{metrics['bits_per_byte']:.2f} bits per byte, on {metrics['tokens_scored']:,} held-out tokens"
    )
    rows.append(SummaryRow("evaluation", score, seconds))
    drawing = ("--max-tokens", "60", "--temperature", "0.7")
    sample, seconds = runner.run("generate", run, "--prompt", PROMPT, *drawing)
    with named(out / "sample.txt"):
        (out / "sample.txt").write_text(sample, encoding="utf-8")
    log_picture(run, out / "sample.txt")
    rows.append(SummaryRow("sample", str(out / "sample.txt"), seconds))
    return [*rows, picture(Path(run))]
