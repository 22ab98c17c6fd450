"""`pretrain compare` of long runs: the same numbers, in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from config_files import small_config

from pretrain.config.resolved import config_to_yaml
from pretrain.errors import IntegrityError
from pretrain.run.folder import RunFolder
from pretrain.tracking.compare import compare_command
from pretrain.tracking.curves import Curves
from pretrain.tracking.journal import lines_of


def a_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.path.mkdir()
    for file in (folder.config, folder.resolved):
        file.write_text(config_to_yaml(small_config()))
    return folder


def test_curves_pair_the_lines_that_have_both(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 3.0, "tokens": 10},
        {"step": 2, "loss": "NaN", "tokens": 20},
        {"step": 2, "validation_loss": 2.5},
        {"step": 3, "loss": 1.0},
        {"step": 4, "loss": 2.0, "tokens": 40},
    ]
    journal = tmp_path / "metrics.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = Curves(lines_of(journal), lambda name: name != "validation_loss")
    assert curves.names == {"step", "loss", "tokens"}
    assert curves.over("loss").tolist() == [[1, 3], [3, 1], [4, 2]]
    assert curves.over("loss", "tokens").tolist() == [[10, 3], [40, 2]]
    assert curves.over("loss", "validation_loss").shape == (0, 2)
    assert (curves.last("loss"), curves.last("step"), curves.last("none")) == (2, 4, None)
    np.testing.assert_array_equal(curves.values("loss"), [3, np.nan, 1, 2])


def test_a_line_without_an_end_is_damage(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "note": "' + "x" * (1 << 21) + '"}\n')
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl:2: not a line of a journal"):
        compare_command([str(run.path)], None)


@pytest.mark.slow
def test_half_a_million_steps_are_drawn_in_little_memory(tmp_path: Path) -> None:
    """As objects these lines take 0.6 GB."""
    run, steps = a_run(tmp_path / "run"), 500_000
    with open(run.metrics, "w") as file:
        for step in range(1, steps + 1):
            file.write(
                f'{{"step": {step}, "time": 1.5, "loss": {1 + 1 / step}, "lr": 0.001, "grad_norm": 1.25, '
                f'"tokens": {step * 64}, "tokens_per_second": 100.5, "step_seconds": 0.25}}\n'
            )
    picture = tmp_path / "run.png"
    # VmHWM: what `wait4` says of a child includes its parent as it was before the program was loaded.
    program = (
        "import re, sys\nfrom pretrain.tracking.compare import compare_command\n"
        "compare_command([sys.argv[1]], sys.argv[2])\n"
        "print('peak', re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.path), str(picture)],
        stdout=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        text=True,
        check=True,
    )
    said, _, peak = done.stdout.rpartition("peak")
    assert f"{steps * 64:,}" in said and picture.stat().st_size > 10_000
    assert int(peak) < 400 << 10, f"{int(peak) / 1024:.0f} MiB"
