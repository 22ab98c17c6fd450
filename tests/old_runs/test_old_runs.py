"""Runs that version 0.1 began (commit 52a006f) go on as that version would have gone on.

`make.py` made them. The losses of steps 5 to 8 are that version's own, computed on an AMD EPYC (Zen 5), where
those of today are equal to the last bit; other processors round differently, hence the tolerance.
"""

import json
import tarfile
from pathlib import Path

import pytest
from ranks import run_pretrain

pytestmark = pytest.mark.slow
RUNS = sorted(Path(__file__).parent.glob("*.tar.gz"))


@pytest.mark.parametrize("archive", RUNS, ids=[path.name.partition(".")[0] for path in RUNS])
def test_a_run_of_version_0_1_goes_on(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    before = (folder / "run" / "metrics.jsonl").read_text().splitlines()[:4]
    done = run_pretrain("train", "config.yaml", "run.steps=8", cwd=folder)
    assert done.returncode == 0, done.stderr
    after = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert after[:4] == before
    lines: dict[int, dict[str, float]] = {}
    for line in map(
        json.loads, after
    ):  # the last step of a GAN has two: that of its update, and of its samples
        lines.setdefault(line["step"], {}).update(line)
    expected = {
        int(step): losses for step, losses in json.loads((folder / "losses.json").read_text()).items()
    }
    assert sorted(lines) == sorted(expected) == list(range(1, 9))
    for step, losses in expected.items():
        assert {name: lines[step][name] for name in losses} == pytest.approx(losses, rel=1e-5), step
