"""What a resume may change, on real runs of every kind: a run that is prolonged is the one that was longer
from the start, data may be moved, and what lies behind an unchanged path may not be other data.

`tests/config/test_run_compatible.py` has the verdict on every key.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_runs import bert_run
from bert_shards import build_bert_shards
from chat_runs import PAIRS, gpt_run, write_pairs
from image_shards import build_image_shards
from resume_runs import Runs, Server
from text_shards import build_shards

from data_tools.train_tokenizer import train_tokenizer
from pretrain.commands.check import check_command
from pretrain.proofs.compare import compare_runs, newest

STEPS = 2
TEXTS = [f"the {name} of {number} is {name}" for number in range(12) for name in ("cat", "hat", "bat")]
SMALL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
SIZES = {"global_size": 4, "micro_size": 2}
BATCH = {**SIZES, "sequence_length": 32}
RUN_OF = {"gpt-chat": "gpt", "bert-classifier": "bert", "bert-tagger": "bert"}
"""Kind -> the run that it starts from."""

pytestmark = pytest.mark.slow


def tokens(place: Path, which: int) -> None:
    build_shards(place, [f"{which} {text}" for text in TEXTS])


def sentences(place: Path, which: int) -> None:
    documents = ["\n".join(f"{text}." for text in TEXTS[first:]) for first in range(10 - which)]
    tokenizer = train_tokenizer([f"{text}." for text in TEXTS], "char", bert=True)
    build_bert_shards(place.parent / f"made-{which}", documents, tokenizer, "lines").rename(place)


def table(place: Path, which: int) -> None:
    rows = [f"{text} {text[4] * which}\t{text[4]}" for text in TEXTS]
    place.write_text("\n".join(["text\tlabel", *rows]) + "\n")


def tagged(place: Path, which: int) -> None:
    sentences = [
        "".join(f"{word} {'N' if len(word) == 3 else 'O'}\n" for word in text.split())
        for text in TEXTS[which:]
    ]
    place.write_text("\n".join(sentences))


def conversations(place: Path, which: int) -> None:
    write_pairs(place, [(question, answer + "!" * which) for question, answer in PAIRS])


def images(place: Path, which: int) -> None:
    build_image_shards(place, count=20, size=16, seed=which)


DATA: dict[str, Callable[[Path, int], None]] = {
    "gpt": tokens,
    "rnn": tokens,
    "bert": sentences,
    "gpt-chat": conversations,
    "bert-classifier": table,
    "bert-tagger": tagged,
    "cnn": images,
    "gan": images,
}
"""Kind -> what writes training (0), validation (1) or other data (2) of it."""
ENDS = {"gpt-chat": ".jsonl", "bert-classifier": ".tsv", "bert-tagger": ".conll"}
"""Kind -> how the names of its files end."""
KEYS: dict[str, dict[str, Any]] = {
    "gpt": {"model": SMALL, "batch": BATCH},
    "rnn": {"model": {"cell": "gru", "num_layers": 1, "hidden_size": 16}, "batch": BATCH},
    "bert": {"model": SMALL, "batch": BATCH},
    "gpt-chat": {"batch": SIZES},
    "bert-classifier": {"batch": SIZES, "data": {"text": "text", "label": "label"}},
    "bert-tagger": {"batch": SIZES},
    "cnn": {"model": {"width": 4, "features": 4}, "batch": SIZES},
    "gan": {
        "model": {"image_size": 16, "latent_size": 4, "generator_channels": 4, "discriminator_channels": 4},
        "batch": {"global_size": 4},
        "loss": {"r1": 1.0},
    },
}


class Kind:
    """Runs of one kind, over data of its own."""

    def __init__(self, name: str, folder: Path, server: Server, starts: dict[str, Path]) -> None:
        self.name, self.data = name, folder / "data"
        self.data.mkdir(parents=True)
        for which, part in enumerate(("train", "validation", "other")):
            DATA[name](self.place(part), which)
        keys = {section: dict(values) for section, values in KEYS[name].items()}
        model, data = keys.setdefault("model", {}), keys.setdefault("data", {})
        model["kind"] = name
        if name in RUN_OF:
            model["init_from"] = str(starts[RUN_OF[name]])
        data |= {part: str(self.place(part)) for part in self.parts}
        if name != "gan":
            keys["schedule"] = {"kind": "constant"}
        keys |= {
            "run": {"dir": "given", "steps": STEPS},
            "optimizer": {"lr": 1e-3},
            "tracking": {"enabled": False},
            "checkpoint": {"every": 50},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(keys))
        self.runs = Runs(server, folder / "config.yaml", folder)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it reads."""
        return ("train",) if self.name == "gan" else ("train", "validation")

    def place(self, part: str) -> Path:
        """Where a part of its data lies."""
        return self.data / f"{part}{ENDS.get(self.name, '')}"

    def begun(self, name: str) -> Path:
        """A copy of the run that has its first steps."""
        first, run = self.runs.folder / "first", self.runs.folder / name
        if not first.exists():
            self.runs.finish(first, 1, [])
        shutil.copytree(first, run)
        return run

    def refused(self, run: Path, *overrides: str) -> str:
        """What a resume says that ends with 2 and leaves the run as it is."""
        before = (run / "metrics.jsonl").read_bytes(), (run / "config.resolved.yaml").read_bytes()
        life = self.runs.start(run, 1, list(overrides))
        assert life.wait() == [2], life.said()
        after = (run / "metrics.jsonl").read_bytes(), (run / "config.resolved.yaml").read_bytes()
        assert before == after and newest(run).step == STEPS
        assert "Traceback" not in life.said()
        return " ".join(life.said().split())

    def behind(self, part: str, run: Path) -> str:
        """What a resume says while other data lies at the unchanged path."""
        place, other, aside = self.place(part), self.place("other"), self.data / "aside"
        place.rename(aside)
        other.rename(place)
        try:
            return self.refused(run, f"run.steps={STEPS + 1}")
        finally:
            place.rename(other)
            aside.rename(place)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Kind]]:
    """Made when they are first asked for."""
    folder, made = tmp_path_factory.mktemp("rules"), dict[str, Kind]()
    starts = {"gpt": gpt_run(folder / "gpt-start"), "bert": bert_run(folder / "bert-start", TEXTS)}
    with Server() as server:

        def kind(name: str) -> Kind:
            if name not in made:
                made[name] = Kind(name, folder / name, server, starts)
            return made[name]

        yield kind


@pytest.mark.parametrize("name", DATA)
def test_prolonged_with_moved_data_is_the_run_that_was_longer_from_the_start(
    kinds: Callable[[str], Kind], name: str
) -> None:
    kind, longer = kinds(name), f"run.steps={STEPS + 1}"
    moved = kind.runs.folder / "moved"
    shutil.copytree(kind.data, moved)
    paths = {part: moved / kind.place(part).name for part in kind.parts}
    if name in ("gpt", "bert", "rnn"):
        paths["tokenizer"] = paths["train"] / "tokenizer"
    run = kind.begun("prolonged")
    kind.runs.finish(run, 1, [longer, *(f"data.{part}={path}" for part, path in paths.items())])
    straight = kind.runs.folder / "straight"
    kind.runs.finish(straight, 1, [longer])
    found = compare_runs(straight, run)
    assert {item.what: item.compared for item in found}["losses"] == STEPS + 1
    assert [item for item in found if item.differing and item.what != "counters"] == []
    one, other = ({**newest(path).state, "run": ""} for path in (straight, run))
    assert one == other


@pytest.mark.parametrize("name", DATA)
def test_training_says_what_its_run_does_not_come_to(kinds: Callable[[str], Kind], name: str) -> None:
    kinds(name).begun("noted")
    said = " ".join((kinds(name).runs.folder / "first.log").read_text().split())
    assert "note: checkpoint.every: 50 is beyond run.steps 2: the end of the run alone is saved" in said


@pytest.mark.parametrize("name", DATA)
def test_fewer_steps_than_are_done_are_refused(kinds: Callable[[str], Kind], name: str) -> None:
    said = kinds(name).refused(kinds(name).begun("shorter"), "run.steps=1")
    assert "run.steps: 2 in the run, 1 now (2 steps are done; set it to 2 or more" in said


@pytest.mark.parametrize("name", DATA)
def test_other_training_data_behind_the_path_is_refused(kinds: Callable[[str], Kind], name: str) -> None:
    said = kinds(name).behind("train", kinds(name).begun("other-train"))
    assert "was trained on other" in said and "data.train has" in said


@pytest.mark.parametrize("name", [name for name in DATA if name != "gan"])
def test_other_validation_data_behind_the_path_is_refused(kinds: Callable[[str], Kind], name: str) -> None:
    said = kinds(name).behind("validation", kinds(name).begun("other-validation"))
    assert "data.validation holds something else than when the run began" in said


def test_another_chat_template_behind_the_path_is_refused(kinds: Callable[[str], Kind]) -> None:
    kind = kinds("gpt-chat")
    run = kind.begun("other-template")
    given = kind.runs.folder / "template.jinja"
    (source,) = (run / "checkpoints").glob("step-*/chat_template.jinja")
    given.write_text(source.read_text())
    kind.runs.finish(run, 1, [f"data.chat_template={given}"])
    given.write_text(source.read_text() + "{# the same text of every conversation #}")
    assert "the chat template holds something else" in kind.refused(run, f"data.chat_template={given}")


def test_a_decayed_run_goes_on_from_the_checkpoint_that_the_message_names(
    kinds: Callable[[str], Kind], capsys: pytest.CaptureFixture[str]
) -> None:
    """wsd: the rate falls over the last steps; a longer run must not have fallen yet."""
    kind = kinds("gpt")
    wsd = ["schedule.kind=wsd", "schedule.decay_steps=3", "optimizer.lr=1e-2"]
    wsd += ["checkpoint.every=2", "checkpoint.keep_last=9"]
    run, straight = kind.runs.folder / "decayed", kind.runs.folder / "decays-later"
    kind.runs.finish(run, 1, [*wsd, "run.steps=6"])
    life = kind.runs.start(run, 1, [*wsd, "run.steps=10"])
    assert life.wait() == [2]
    said = " ".join(life.said().split())
    assert "run.steps: 6 in the run, 10 now (with schedule.kind wsd steps 4 to 6, which are done" in said
    assert "to go on from step 2, remove the checkpoints after step-00000002" in said
    config = str(kind.runs.config)
    check_command(config, [*wsd, f"run.dir={run}", "run.steps=10"], None, show=False, data=False)
    assert "note: run.dir: " in (noted := capsys.readouterr().out) and "run.steps: 6 in the run, 10" in noted
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    kind.runs.finish(run, 1, [*wsd, "run.steps=10"])
    kind.runs.finish(straight, 1, [*wsd, "run.steps=10"])
    found = compare_runs(straight, run)
    assert {item.what: item.compared for item in found}["learning rates"] == 10
    assert [item for item in found if item.differing] == []
