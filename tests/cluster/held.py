"""A Python for jobs under test, which a test holds by files in the folder HOLD, while they are there.

start-N keeps rank N from meeting the others, data-N keeps it in its loader, fail-N is a defect there, and
validation keeps all ranks in their next validation, where rank N says so by a file validates-N. A batch takes
PACE seconds at least, so that jobs that wait for their test leave the machine to others.
"""

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pretrain.run.signals import Signals

HOLD, PACE = Path(os.environ["HOLD"]), float(os.environ["PACE"])
RANK = os.environ.get("SLURM_PROCID", "0")


def held(name: str) -> bool:
    return (HOLD / name).exists()


def before_data() -> None:
    time.sleep(PACE)
    if held(f"fail-{RANK}"):
        raise ValueError("a defect in the loader")
    while held(f"data-{RANK}"):
        time.sleep(0.05)


def patch_training() -> None:
    """Imports what takes seconds, so only once signals are caught."""
    while held(f"start-{RANK}"):
        time.sleep(0.05)
    import pretrain.megatron.trainer
    from pretrain.data.images import ImageData
    from pretrain.distributed.collectives import largest
    from pretrain.gpt.data import TrainingData

    text, images, score = TrainingData.batch, ImageData.images, pretrain.megatron.trainer.score

    def held_text(data: TrainingData, *arguments: Any) -> Any:
        before_data()
        return text(data, *arguments)

    def held_images(data: ImageData, *arguments: Any) -> Any:
        before_data()
        return images(data, *arguments)

    def held_score(model: Any, data: Any, advance: Any) -> Any:
        while largest(model.layout.world, int(held("validation"))):
            (HOLD / f"validates-{RANK}").touch()
            time.sleep(0.05)
            advance(0)
        return score(model, data, advance)

    for owner, name, replacement in (
        (TrainingData, "batch", held_text),
        (ImageData, "images", held_images),
        (pretrain.megatron.trainer, "score", held_score),
    ):
        mock.patch.object(owner, name, replacement).start()


def main() -> None:
    sys.path[0] = os.getcwd()  # as `python -m` has it
    sys.argv = sys.argv[2:]  # without -m
    if sys.argv[:2] == ["pretrain", "train"]:
        catch = Signals.__enter__

        def catch_and_patch(signals: Signals) -> Signals:
            caught = catch(signals)
            patch_training()
            return caught

        mock.patch.object(Signals, "__enter__", catch_and_patch).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
