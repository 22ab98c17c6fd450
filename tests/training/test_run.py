"""A run: when it saves and stops, how it ends, and that what rank 0 refuses all ranks refuse."""

import json
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import config_for, metrics_of, open_run

from pretrain.config.sections import GptConfig
from pretrain.errors import HealthError, UserError
from pretrain.run.folder import RunFolder
from pretrain.run.lock import is_held
from pretrain.run.status import Status, actual_status
from pretrain.tracking.journal import read
from pretrain.training.session import Session


def quiet(path: Path, steps: int = 10) -> GptConfig:
    return config_for(path / "run", None, steps=steps, enabled=False)


def status_of(config: GptConfig) -> Status:
    status = actual_status(RunFolder(config.run.dir))
    assert status is not None
    return status


def test_a_run_that_finishes(tmp_path: Path) -> None:
    config = quiet(tmp_path)
    with open_run(config) as run:
        run.begin(0, {"layout": "TP2"})
        assert is_held(run.folder.lock) and status_of(config).state == "running"
        for step in range(1, 11):
            run.log_step(step, metrics_of(step))
        run.log_validation(10, {"validation_loss": 2.5})
        run.sync()
    status = status_of(config)
    assert (status.state, status.step, status.exit_code, status.job) == ("finished", 10, 0, 1)
    assert status.facts["layout"] == "TP2" and status.run == run.id
    assert not is_held(run.folder.lock)
    assert [e["step"] for e in read(run.folder.metrics)] == [*range(1, 11), 10]
    log = run.folder.rank_log(0).read_text()
    assert "step 10/10  loss 1.1000" in log and "step 10/10  validation_loss 2.5" in log


def test_a_signal_stops_with_75_and_the_next_job_goes_on(tmp_path: Path) -> None:
    config = quiet(tmp_path)
    with pytest.raises(UserError) as caught, open_run(config) as run:
        run.begin(0)
        for step in range(1, 11):
            run.log_step(step, metrics_of(step))
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            if number := run.pending():
                assert run.should_save(step, number)
                raise run.stopped(step, number)
    assert caught.value.exit_code == 75 and "SIGTERM at step 4 of 10" in str(caught.value)
    assert (status_of(config).state, status_of(config).exit_code) == ("stopped", 75)
    with open_run(config) as again:
        again.begin(3, run_id=run.id)
        again.log_step(4, metrics_of(4))
    assert again.id == run.id and status_of(config).job == 2
    assert [e["step"] for e in read(run.folder.metrics)] == [1, 2, 3, 4]
    assert len(read(run.folder.path / "metrics.superseded.jsonl")) == 1


@pytest.mark.parametrize(
    ("error", "state", "code", "reason"),
    [
        (HealthError("loss is NaN at step 1"), "failed", 4, "loss is NaN at step 1"),
        (UserError("no room"), "failed", 2, "no room"),
        (KeyboardInterrupt(), "stopped", 130, "interrupted"),
        (ZeroDivisionError("oh"), "failed", 1, "ZeroDivisionError: oh"),
        (SystemExit(3), "failed", 3, "exit code 3"),
    ],
)
def test_how_a_run_ended_is_known(
    tmp_path: Path, error: BaseException, state: str, code: int, reason: str
) -> None:
    config = quiet(tmp_path)
    with pytest.raises(type(error)), open_run(config) as run:
        run.begin(0)
        raise error
    status = status_of(config)
    assert (status.state, status.exit_code) == (state, code)
    assert status.reason is not None and status.reason.startswith(reason)
    is_a_bug = isinstance(error, ZeroDivisionError)
    assert ("Traceback" in run.folder.rank_log(0).read_text()) == (is_a_bug or code in (130, 3))


def test_when_to_save_and_to_validate(tmp_path: Path) -> None:
    tree = quiet(tmp_path).model_dump(by_alias=True)
    tree["checkpoint"]["every"], tree["eval"]["every"] = 4, 5
    with open_run(GptConfig.model_validate(tree)) as run:
        assert [step for step in range(1, 11) if run.should_save(step)] == [4, 8, 10]
        assert [step for step in range(1, 11) if run.should_validate(step)] == [5, 10]
    with open_run(quiet(tmp_path)) as run:
        assert [step for step in range(1, 11) if run.should_save(step) or run.should_validate(step)] == [10]


def test_data_that_changed_is_refused(tmp_path: Path) -> None:
    with open_run(quiet(tmp_path)) as run:
        run.begin(0, {"data_fingerprint": "aaa", "layout": "TP2"})
    with open_run(quiet(tmp_path)) as run:
        run.begin(0, {"data_fingerprint": "aaa", "layout": "PP2"})
    with (
        pytest.raises(
            UserError, match=r"data\.train holds something else than .*: data_fingerprint aaa then, bbb now"
        ),
        open_run(quiet(tmp_path)) as run,
    ):
        run.begin(0, {"data_fingerprint": "bbb"})
    assert status_of(quiet(tmp_path)).state == "finished"  # the refused job said nothing
    assert not is_held(run.folder.lock)


def test_a_journal_line_of_a_rewound_step_is_superseded(tmp_path: Path) -> None:
    with open_run(quiet(tmp_path)) as run:
        run.begin(0)
        for step in (1, 2, 3):
            run.log_step(step, metrics_of(step))
        run.rewind(1)
        run.log_step(2, metrics_of(2))
    assert [e["step"] for e in read(run.folder.metrics)] == [1, 2]


@pytest.mark.parametrize("foreign", [False, True])
def test_all_ranks_open_or_refuse_together(tmp_path: Path, foreign: bool) -> None:
    (tmp_path / "run").mkdir()
    if foreign:
        (tmp_path / "run" / "thesis.tex").touch()
    passed: queue.Queue[str | UserError] = queue.Queue()
    answers: list[object] = []

    def other_rank() -> None:
        def told(_: Callable[[], str]) -> str:
            answer = passed.get(timeout=60)
            if isinstance(answer, UserError):
                raise answer
            return answer

        other = Session(quiet(tmp_path), 1, told)
        try:
            told(lambda: pytest.fail("only rank 0 acts"))
            other.begin(0)
            answers.append(other.id)
        except UserError as error:
            answers.append(error)

    thread = threading.Thread(target=other_rank)
    thread.start()

    def tell(act: Callable[[], str]) -> str:
        try:
            answer = act()
        except UserError as error:
            passed.put(error)
            raise
        passed.put(answer)
        return answer

    try:
        with Session.open(
            quiet(tmp_path), "", json.dumps(quiet(tmp_path).model_dump(mode="json")), 0, tell
        ) as run:
            run.begin(0)
            mine: object = run.id
            run.log_step(1, {"loss": 1.0})
    except UserError as error:
        mine = error
    thread.join()
    if foreign:
        assert "thesis.tex" in str(answers[0]) and str(answers[0]) == str(mine)
        assert os.listdir(tmp_path / "run") == ["thesis.tex"]
    else:
        assert answers == [mine]


def test_logging_is_put_back(tmp_path: Path) -> None:
    before = (logging.getLogger().handlers[:], logging.getLogger().level, signal.getsignal(signal.SIGTERM))
    with open_run(quiet(tmp_path)):
        pass
    assert before == (
        logging.getLogger().handlers,
        logging.getLogger().level,
        signal.getsignal(signal.SIGTERM),
    )
