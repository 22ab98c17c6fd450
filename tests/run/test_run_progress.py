"""The progress line and the ranks' logs."""

import io
import logging
import warnings
from pathlib import Path

from rich.console import Console

from pretrain.run.logs import setup_logging
from pretrain.run.progress import TrainingProgress, duration, step_line

METRICS = {"loss": 3.21454, "lr": 9.8e-4, "grad_norm": 0.871, "tokens_per_second": 12345.6, "mfu": 0.4123}


def test_the_line() -> None:
    assert step_line(120, 2000, METRICS, 192.2) == (
        "step 120/2,000  loss 3.2145  lr 0.00098  grad norm 0.871  12,346 tokens/s  MFU 41.2%  ETA 0:03:12"
    )
    assert step_line(1, 2, {"loss": float("nan")}, None) == "step 1/2  loss nan"
    assert duration(3723.4) == "1:02:03"


def test_plain_lines_at_the_start_every_ten_seconds_and_at_the_end(tmp_path: Path) -> None:
    now = [0.0]
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    with (
        setup_logging(tmp_path / "rank-0000.log", 0, console),
        TrainingProgress(100, 20, console, clock=lambda: now[0]) as progress,
    ):
        for step in range(21, 101):
            now[0] += 1.0
            progress.update(step, METRICS)
    shown = screen.getvalue().splitlines()
    assert [line.split()[1] for line in shown] == [f"{n}/100" for n in (21, 31, 41, 51, 61, 71, 81, 91, 100)]
    assert shown[1].endswith("ETA 0:01:09")
    assert (tmp_path / "rank-0000.log").read_text().count("step ") == 9


def test_a_terminal_gets_a_live_line_and_the_file_plain_ones(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    now = [0.0]
    with (
        setup_logging(tmp_path / "rank-0000.log", 0, console),
        TrainingProgress(10, 0, console, clock=lambda: now[0]) as progress,
    ):
        for step in range(1, 11):
            now[0] += 0.2
            progress.update(step, METRICS)
        logging.getLogger("pretrain.megatron.trainer").info("saved a checkpoint")
    assert "\n" not in screen.getvalue().split("step 10/10")[0].replace("\r", "")  # one line, rewritten
    assert "saved a checkpoint" in screen.getvalue()
    assert (tmp_path / "rank-0000.log").read_text().count("step ") == 2


def test_a_log_line_has_time_host_and_rank_and_libraries_do_not_chatter(tmp_path: Path) -> None:
    screen = io.StringIO()
    path = tmp_path / "rank-0002.log"
    path.write_text("an earlier job\n")
    with setup_logging(path, 2, Console(file=screen, width=200)):
        logging.getLogger("pretrain.megatron.trainer").info("hello [not markup]")
        logging.getLogger("megatron.core").info("chatter")
        logging.getLogger("megatron.core").warning("a notice")
        logging.getLogger("megatron.core").error("something broke")
        warnings.warn("deprecated", stacklevel=1)
    lines = path.read_text().splitlines()
    assert lines[0] == "an earlier job"
    assert " rank 2 INFO pretrain.megatron.trainer: hello [not markup]" in lines[1]
    text = "\n".join(lines)
    assert "a notice" in text and "something broke" in text and "deprecated" in text and "chatter" not in text
    assert screen.getvalue().splitlines() == ["hello [not markup]", "error: something broke"]
