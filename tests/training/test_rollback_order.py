"""Which samples a run trains on that rolls back and is killed, in every schedule, against a plain simulation.

The simulation knows the documented rules alone. A step takes the next samples of its order; growing batches
take more of one order, each length of sequence has an order of its own. A rollback from a spike forbids every
sample seen since the checkpoint, the spike's included, and the run goes on at the checkpoint with the next
samples that are not forbidden. A resume knows what the last checkpoint says.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import pytest
from config_files import small_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from text_shards import build_shards

from pretrain.config.sections import GptConfig
from pretrain.config.stages import samples_between, samples_until
from pretrain.gpt.data import TrainingData
from pretrain.health.spikes import SpikeHistory
from pretrain.megatron.rampup import RampupDataset, rampup_dataset

STEPS = 16
TEXT = ["".join(chr(97 + (i * i + salt) % 26) for i in range(700)) for salt in range(12)]


@dataclass
class Plain:
    """The documented rules, with sets and counters."""

    sizes: list[int]
    """Samples of each step."""
    orders: list[int]
    """Which order each step draws from."""
    step: int = 0
    place: dict[int, int] = field(default_factory=dict)
    """The next sample of each order."""
    forbidden: dict[int, set[int]] = field(default_factory=dict)
    trained: list[tuple[int, list[int]]] = field(default_factory=list)
    """Order and samples of each step done."""

    def draw(self) -> None:
        order = self.orders[self.step]
        free = (n for n in count(self.place.get(order, 0)) if n not in self.forbidden.get(order, set()))
        batch = list(islice(free, self.sizes[self.step]))
        self.trained.append((order, batch))
        self.place[order] = batch[-1] + 1
        self.step += 1

    def back_to(self, saved: "Plain") -> "Plain":
        """After the step just drawn was a spike."""
        back = deepcopy(saved)
        back.forbidden = deepcopy(self.forbidden)
        for order in {order for order, _ in self.trained[saved.step :]}:
            seen = range(saved.place.get(order, 0), self.place[order])
            back.forbidden[order] = back.forbidden.get(order, set()) | set(seen)
        return back


@dataclass
class Product:
    """What a trainer and its checkpoints do with the order, without a model."""

    config: GptConfig
    feed: RampupDataset
    memory: SpikeHistory = field(default_factory=SpikeHistory)

    def batch(self, step: int) -> list[int]:
        jumped = self.memory.jumped(step, self.feed.stage(step).order)
        batches = self.feed.batches(step, jumped, 0, 1)
        ids = [sample for batch in batches for sample in batch.sample_ids]
        assert ids == list(self.feed.samples(step, jumped)), "the samples that messages name"
        return ids

    def back_to(self, done: int, spike: int, saved: Any) -> None:
        since = samples_between(self.config, done, spike + 1)
        self.memory = self.memory.back_to(done, spike, since, SpikeHistory.from_json(saved))


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    """Changes to the small config: growing batches, growing sequences, or neither; one source or a blend."""
    kind = draw(st.sampled_from(["plain", "batches", "sequences"]))
    ends = sorted(draw(st.sets(st.integers(1, STEPS - 1), min_size=1, max_size=3)))
    if kind == "batches":
        sizes = sorted(draw(st.lists(st.integers(1, 5), min_size=len(ends), max_size=len(ends))))
        given = [{"until": end, "global_size": size} for end, size in zip(ends, sizes, strict=True)]
        return {"schedule__batch_size": tuple(given)}
    if kind == "sequences":
        lengths = sorted(
            draw(st.sets(st.sampled_from([16, 24, 32, 48]), min_size=len(ends), max_size=len(ends)))
        )
        sizes = draw(st.lists(st.integers(1, 9), min_size=len(ends), max_size=len(ends)))
        return {
            "schedule__sequence_length": tuple(
                {"until": end, "sequence_length": length, "global_size": size}
                for end, length, size in zip(ends, lengths, sizes, strict=True)
            )
        }
    return {}


def plain_of(changes: dict[str, Any], last: int) -> Plain:
    """Sizes and orders of each step, from the keys as a user wrote them."""
    stages = changes.get("schedule__batch_size") or changes.get("schedule__sequence_length") or ()
    own_order = "schedule__sequence_length" in changes
    where = [
        next((n for n, each in enumerate(stages) if step < each["until"]), len(stages))
        for step in range(STEPS)
    ]
    sizes = [stages[n]["global_size"] if n < len(stages) else last for n in where]
    return Plain(sizes, [n if own_order else 0 for n in where])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("order")
    return [str(build_shards(folder / name, TEXT)) for name in ("a", "b")]


EVENTS = st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["spike", "spike", "kill"])), max_size=7)


LONGER = {"schedule__sequence_length": ({"until": 6, "sequence_length": 16, "global_size": 3},)}


# From the second length back into the first, and then further back while the first is not over.
@example(changes=LONGER, events=[(8, "spike"), (0, "spike")], every=4, lost=1, blend=False)
@given(schedules(), EVENTS, st.integers(1, 6), st.integers(0, 2), st.booleans())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_run_trains_on_what_the_rules_say(
    sources: list[str],
    changes: dict[str, Any],
    events: list[tuple[int, str]],
    every: int,
    lost: int,
    blend: bool,
) -> None:
    """`lost`: newest checkpoints that are damaged whenever one is gone back to."""
    train = [{"path": path, "weight": weight} for path, weight in zip(sources, (3, 1), strict=True)]
    config = small_config(
        data__train=tuple(train[: 1 + blend]), batch__global_size=6, batch__micro_size=1, **changes
    )
    product = Product(config, rampup_dataset(config, TrainingData.from_config(config)))
    plain = plain_of(changes, last=6)
    saved: dict[int, tuple[Plain, Any]] = {0: (deepcopy(plain), product.memory.to_json())}
    pending = list(events)
    while plain.step < STEPS:
        step = plain.step
        plain.draw()
        assert product.batch(step) == plain.trained[step][1]
        if pending and pending[0][0] == 0:
            event = pending.pop(0)[1]
            whole = sorted(at for at in saved if at <= step)
            done = whole[max(0, len(whole) - 1 - lost)]
            if event == "spike":
                plain = plain.back_to(saved[done][0])
                product.back_to(done, step, saved[done][1])
                saved[done] = deepcopy(plain), product.memory.to_json()
            else:
                plain = deepcopy(saved[done][0])
                product.memory = SpikeHistory.from_json(saved[done][1])
            saved = {at: state for at, state in saved.items() if at <= done}
            continue
        if pending:
            pending[0] = (pending[0][0] - 1, pending[0][1])
        if plain.step % every == 0:
            saved[plain.step] = deepcopy(plain), product.memory.to_json()
    assert_named(plain, product)


def assert_named(plain: Plain, product: Product) -> None:
    """Each sample before the run's place was trained on once, or is in a range that `state.json` names."""
    named: dict[int, list[int]] = {}
    for each in product.memory.to_json()["skipped"]:
        named.setdefault(each.get("order", 0), []).extend(range(each["first"], each["stop"]))
    assert {order: set(ids) for order, ids in named.items()} == {
        k: v for k, v in plain.forbidden.items() if v
    }
    assert all(len(ids) == len(set(ids)) for ids in named.values()), "ranges overlap"
    for order in set(plain.orders):
        seen = [sample for at, batch in plain.trained for sample in batch if at == order]
        jumped = [sample for sample in named.get(order, []) if sample < plain.place[order]]
        assert sorted(seen + jumped) == list(range(plain.place[order]))
    samples = samples_until(product.config, STEPS) + sum(product.memory.jumped(STEPS, n) for n in named)
    assert samples == sum(plain.place.values())
