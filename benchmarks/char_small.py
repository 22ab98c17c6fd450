"""Does our GPT learn what a plain PyTorch GPT learns?

    python benchmarks/char_small.py [--text FILE] [--out FOLDER]

Trains configs/gpt/char-small.yaml through the real commands, and `plain_gpt.py` (nanoGPT's architecture and
settings) on the same characters with the same 90/10 split, and prints both validation losses and
seconds. Without --text the text is Python's language reference, which every Python carries.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from plain_gpt import Settings, train_plain_gpt

from pretrain.config.load import load_config
from pretrain.data.sources import open_training, open_validation

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "gpt" / "char-small.yaml"
TOLERANCE = 0.02


def pretrain(*arguments: str) -> float:
    """Run a command; its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pretrain", *arguments], check=True)
    return time.perf_counter() - began


def ours(folder: Path, text: Path, seed: int) -> tuple[float, float, list[str]]:
    """Train through the commands: validation loss at the end, seconds, and the config's overrides."""
    tokenizer, shards, run = folder / "tokenizer", folder / "shards", folder / f"run-{seed}"
    if not shards.exists():
        pretrain(
            "data", "tokenizer", "--input", str(text), "--model-type", "char", "--output", str(tokenizer)
        )
        pretrain(
            "data", "build", "--input", str(text), "--tokenizer", str(tokenizer), "--output", str(shards)
        )
    overrides = [f"run.dir={run}", f"run.seed={seed}", f"data.train={shards}", "tracking.enabled=false"]
    seconds = pretrain("train", str(CONFIG), *overrides)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["validation_loss"] for line in lines if "validation_loss" in line][-1], seconds, overrides


def plain(overrides: list[str], seed: int) -> tuple[float, float]:
    """Train the plain GPT on the same ids: validation loss at the end, and seconds."""
    config = load_config(str(CONFIG), overrides).config
    (train,), (validation,) = open_training(config), open_validation(config) or ()
    began = time.perf_counter()
    _, loss = train_plain_gpt(
        train.reader.read(train.start, train.stop),
        validation.reader.read(validation.start, validation.stop),
        train.reader.index.vocab_size,
        Settings(),
        seed=seed,
    )
    return loss, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="char-small-"))
    text = arguments.text
    if text is None:
        text = folder / "text"
        if not text.exists():
            pretrain("data", "embedded", "--corpus", "language-reference", "--output", str(text))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    differences = []
    for seed in arguments.seeds:
        our_loss, our_seconds, overrides = ours(folder, text, seed)
        plain_loss, plain_seconds = plain(overrides, seed)
        differences.append(our_loss - plain_loss)
        mine, other = f"{our_loss:.4f} ({our_seconds:.0f} s)", f"{plain_loss:.4f} ({plain_seconds:.0f} s)"
        print(f"seed {seed}: ours {mine}  plain {other}")
    mean = sum(differences) / len(differences)
    print(f"ours minus plain: {mean:+.4f}, to be within {TOLERANCE}: {'yes' if mean <= TOLERANCE else 'NO'}")


if __name__ == "__main__":
    main()
