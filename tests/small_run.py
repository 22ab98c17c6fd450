"""A run without a model: `python small_run.py DIR URI START STOP [FILE]` journals a step every 10 ms.

It stays before its last hundred steps until FILE is there.
"""

import sys
import time
from pathlib import Path
from typing import Any

import yaml

from pretrain.config.sections import GptConfig
from pretrain.health.phase_timer import Phase
from pretrain.tracking import uploader_process as background
from pretrain.training.session import Session


def config_for(directory: str | Path, uri: str | None, steps: int = 50, **tracking: Any) -> GptConfig:
    return GptConfig.model_validate(
        {
            "run": {"dir": str(directory), "steps": steps},
            "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 64, "num_attention_heads": 2},
            "batch": {"global_size": 8, "sequence_length": 32},
            "optimizer": {"lr": 1e-3},
            "schedule": {"kind": "constant"},
            "data": {"train": ({"path": "shards"},)},
            "tracking": {"uri": uri, **tracking},
        }
    )


def open_run(config: GptConfig) -> Session:
    text = yaml.safe_dump(config.model_dump(mode="json", by_alias=True))
    return Session.open(config, "# as written\n" + text, text)


def metrics_of(step: int) -> dict[str, float]:
    return {"loss": 1 + 1 / step, "lr": 1e-3, "grad_norm": float(step), "tokens": 256.0 * step}


def train(config: GptConfig, start: int = 0) -> None:
    with open_run(config) as run:
        run.begin(start, {"data_fingerprint": "abc"})
        for step in range(start + 1, config.run.steps + 1):
            run.log_step(step, metrics_of(step))
            if step % 25 == 0:
                run.log_validation(step, {"validation_loss": 2 / step})


def main() -> None:
    directory, uri, start, stop, *wanted = sys.argv[1:]
    background.FINISH_SECONDS = 300.0
    with open_run(config_for(directory, uri, steps=int(stop))) as run:
        run.begin(int(start))
        for step in range(int(start) + 1, int(stop) + 1):
            run.log_step(step, metrics_of(step))
            print(step, flush=True)
            time.sleep(0.01)
            while step == int(stop) - 100 and not all(Path(file).exists() for file in wanted):
                run.pulse.mark(Phase.JOURNAL)
                run._uploader.look()
                time.sleep(0.05)


if __name__ == "__main__":
    main()
