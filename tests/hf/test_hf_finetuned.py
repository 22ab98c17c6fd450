"""A fine-tuned BERT in transformers: the answers of the run, from its own tokenizer and model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_runs import bert_run
from config_files import REPOSITORY
from ranks import run_pretrain

NAMES = ["Ada", "Bob", "Cleo"]
SENTENCES = [
    (f"the film of {NAMES[number % 3]} is {'fine' if number % 2 else 'poor'}", str(number % 2 == 1))
    for number in range(60)
]
OTHERS = ["fine" if number % 2 else "a film that is poor" for number in range(60)]

pytestmark = pytest.mark.slow


def pretrain(*arguments: str) -> str:
    done = run_pretrain(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_examples(folder: Path) -> None:
    for name, rows in (("train", SENTENCES), ("dev", SENTENCES[:9])):
        lines = [f"{text}\t{other}\t{label}\n" for (text, label), other in zip(rows, OTHERS, strict=False)]
        (folder / f"{name}.tsv").write_text("sentence\tother\tlabel\n" + "".join(lines))
        words = [
            [f"{word} {'B-PER' if word in NAMES else 'O'}\n" for word in text.split()] for text, _ in rows
        ]
        (folder / f"{name}.conll").write_text("\n".join("".join(each) for each in words))


def finetune(folder: Path, kind: str, norm_position: str, steps: int, *overrides: str) -> Path:
    write_examples(folder)
    end = "conll" if kind == "tagging" else "tsv"
    bert = bert_run(folder / "bert", [text for text, _ in SENTENCES], f"model.norm_position={norm_position}")
    pretrain(
        "train",
        str(REPOSITORY / "configs" / "bert" / f"finetune-{kind}.yaml"),
        f"model.init_from={bert}",
        f"run.dir={folder / 'run'}",
        f"run.steps={steps}",
        f"data.train={folder}/train.{end}",
        f"data.validation={folder}/dev.{end}",
        "batch.global_size=8",
        "batch.micro_size=4",
        "optimizer.lr=5e-3",
        "schedule.warmup_steps=1",
        "tracking.enabled=false",
        *overrides,
    )
    return folder / "run"


def answers_of(model: Any, tokenizer: Any, line: int, *, pairs: bool) -> list[str]:
    """What transformers says of the words, or of the whole, of a line of the development file."""
    if pairs:
        inputs = tokenizer(SENTENCES[line][0], OTHERS[line], return_tensors="pt")
        assert set(inputs["token_type_ids"].flatten().tolist()) == {0, 1}
        with torch.no_grad():
            return [model.config.id2label[int(model(**inputs).logits[0].argmax())]]
    words = SENTENCES[line][0].split()
    spaced = [words[0], *(f" {word}" for word in words[1:])]
    inputs = tokenizer(spaced, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs).logits[0].argmax(-1)
    if said.dim() == 0:
        return [model.config.id2label[int(said)]]
    places = inputs.word_ids()
    return [model.config.id2label[int(said[places.index(number)])] for number in range(len(words))]


@pytest.mark.parametrize(
    ("kind", "norm_position", "layout", "name"),
    [
        ("classification", "pre", ["parallel.tensor=2"], "MegatronBertForSequenceClassification"),
        ("classification", "pre", ["data.text_pair=other"], "MegatronBertForSequenceClassification"),
        ("tagging", "post", ["parallel.pipeline=2"], "BertForTokenClassification"),
    ],
)
def test_it_answers_as_the_run_did(
    tmp_path: Path, kind: str, norm_position: str, layout: list[str], name: str
) -> None:
    import transformers

    pairs = "data.text_pair=other" in layout
    run = finetune(tmp_path, kind, norm_position, 60, *layout, "--processes", "2")
    out = tmp_path / "out"
    assert f"{out}: {name} of step 60, with tokenizer" in pretrain("export", str(run), str(out))
    head = "TokenClassification" if kind == "tagging" else "SequenceClassification"
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(out)
    assert type(model).__name__ == name
    assert set(model.config.label2id) == ({"B-PER", "O"} if kind == "tagging" else {"True", "False"})
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(out)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    predicted = [row["predictions"] if kind == "tagging" else [row["prediction"]] for row in rows]
    assert predicted == [answers_of(model, tokenizer, line, pairs=pairs) for line in range(len(rows))]
    assert len({answer for row in predicted for answer in row}) == 2, "one class alone shows little"


def test_what_cannot_be_exported_or_scored(tmp_path: Path) -> None:
    """Classes that are not what the head was trained for are refused, not renamed."""
    run = finetune(tmp_path, "classification", "post", 2)
    state = run / "checkpoints" / "step-00000002" / "state.json"
    assert json.loads(state.read_text())["labels"] == ["False", "True"]
    for file in (tmp_path / "train.tsv", tmp_path / "dev.tsv"):
        file.write_text(file.read_text().replace("\tTrue", "\tAlways"))
    done = run_pretrain("eval", run)
    assert done.returncode == 2
    assert "train.tsv: its classes are Always, False; those of " in done.stderr
    assert "are False, True: it is not the file that the run was trained on" in done.stderr
