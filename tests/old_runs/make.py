"""Made the runs beside this file, in a checkout of commit 52a006f (version 0.1): `python make.py TARGET`.

For each kind TARGET/KIND.tar.gz: `data` (shards), `config.yaml`, `run` (four steps, with its checkpoint) and
`losses.json`: every loss of eight steps. The last four were trained by that commit from that checkpoint.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path("tests").resolve()))

from bert_shards import build_bert_shards
from image_shards import build_image_shards
from text_shards import build_shards

from data_tools.train_tokenizer import train_tokenizer

TEXTS = [f"the {name} of {number} is {name}" for number in range(20) for name in ("cat", "hat", "bat")]
SMALL = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
BATCH = {"global_size": 4, "micro_size": 2, "sequence_length": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt": {"model": {**SMALL, "dropout": 0.1}, "batch": BATCH},
    "bert": {"model": SMALL, "batch": BATCH},
    "rnn": {
        "model": {"cell": "lstm", "num_layers": 2, "hidden_size": 16, "dropout": 0.1},
        "batch": BATCH,
    },
    "gan": {
        "model": {"image_size": 16, "latent_size": 4, "generator_channels": 4, "discriminator_channels": 4},
        "batch": {"global_size": 4},
    },
}


def write_data(kind: str) -> None:
    if kind == "gan":
        build_image_shards(Path("data"), count=20, size=16)
        shutil.rmtree("data-pictures")
    elif kind == "bert":
        tokenizer = train_tokenizer([f"{text}." for text in TEXTS], "char", bert=True)
        documents = ["\n".join(f"{text}." for text in TEXTS[first:]) for first in range(10)]
        build_bert_shards(Path("made"), documents, tokenizer, "lines").rename("data")
    else:
        build_shards(Path("data"), TEXTS)


def train(run: str, steps: int) -> None:
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "train",
        "config.yaml",
        f"run.dir={run}",
        f"run.steps={steps}",
    ]
    subprocess.run(command, check=True, capture_output=True)


def losses(run: str) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {name: value for name, value in line.items() if "loss" in name}
        for line in lines
        if any("loss" in name for name in line)
    }


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    here = Path.cwd()
    os.environ |= {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    for kind in sys.argv[2:] or CONFIGS:
        keys = CONFIGS[kind]
        folder = target / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        write_data(kind)
        config = {
            **keys,
            "run": {"dir": "run", "steps": 4 if kind != "gan" else 8},
            "model": {"kind": kind, **keys["model"]},
            "data": {"train": "data"},
            "optimizer": {"lr": 1e-3},
            "tracking": {"enabled": False},
            "checkpoint": {"every": 4},
        }
        if kind != "gan":
            config["schedule"] = {"kind": "constant"}
        Path("config.yaml").write_text(yaml.safe_dump(config))
        if (
            kind == "gan"
        ):  # which that commit did not prolong: as if it had been killed before it saved step 8
            train("run", 8)
            Path("losses.json").write_text(json.dumps(losses("run"), indent=1))
            shutil.rmtree("run/checkpoints/step-00000008")
            Path("run/checkpoints/latest").write_text("step-00000004")
        else:
            train("run", 4)
            shutil.copytree("run", "longer")
            train("longer", 8)
            Path("losses.json").write_text(json.dumps(losses("longer"), indent=1))
            shutil.rmtree("longer")
        os.chdir(target)
        with tarfile.open(f"{kind}.tar.gz", "w:gz") as tar:
            tar.add(kind)
        shutil.rmtree(kind)
        os.chdir(here)


if __name__ == "__main__":
    main()
