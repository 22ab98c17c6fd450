"""A run that sits at what guessing gets is told so, with a cause; one that learns is not."""

from dataclasses import replace

from bert_shards import bert_config

from pretrain.bert.spec import BertSums
from pretrain.training.metric_sums import Plateau

GUESSING = BertSums(
    mlm_nll=400,
    mlm_squares=0,
    chosen=100,
    chosen_right=20,
    masked=80,
    masked_nll=400,
    masked_right=4,
    masked_frequent=4,
    nsp_nll=6,
    pairs=8,
    pairs_right=5,
    pairs_random=4,
)


def said(totals: BertSums, steps: int = 300, warmup: int = 0) -> list[tuple[int, str]]:
    """Step and beginning of every warning."""
    config = bert_config(None, train=({"path": "x"},))
    run = config.run.model_copy(update={"steps": 300})
    schedule = config.schedule.model_copy(update={"warmup_steps": warmup})
    plateau = Plateau(config.model_copy(update={"run": run, "schedule": schedule}))
    return [(step, line) for step in range(steps) for line in plateau.after(step, totals)]


def test_guessing_is_told_at_the_end_of_each_window() -> None:
    warnings = said(GUESSING)
    assert [(step, line.split()[0]) for step, line in warnings] == [
        (99, "mlm_accuracy"),
        (199, "mlm_accuracy"),
        (299, "mlm_accuracy"),
    ]
    assert "was 5.00% in the last 100 steps, and always the same answer gets 5.00%" in warnings[0][1]
    assert "rotary" in warnings[0][1]


def test_the_warm_up_is_no_plateau() -> None:
    assert [step for step, _ in said(GUESSING, warmup=50)] == [149, 249]


def test_next_sentences_at_chance_are_told() -> None:
    chance = replace(GUESSING, masked_right=40, pairs_right=4)
    assert {line.split()[0] for _, line in said(chance)} == {"nsp_accuracy"}


def test_learning_is_not_warned_about() -> None:
    assert said(replace(GUESSING, masked_right=12)) == []
    assert said(GUESSING, steps=99) == []
