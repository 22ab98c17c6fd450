"""Labelled files: what is read, what is refused and how, and that batches are a function of the step."""

from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

from data_tools.tokenizer import BertIds, own_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.bert.finetune.data.conll import read_conll
from pretrain.bert.finetune.data.data import LabelledData, LabelledTraining, LabelledValidation, fingerprint
from pretrain.bert.finetune.data.examples import (
    NO_LABEL,
    Labels,
    encode_row,
    encode_sentence,
    training_labels,
)
from pretrain.bert.finetune.predictions import Predictions, entities
from pretrain.data.table import TextRow, read_table
from pretrain.errors import UserError

TSV = "sentence\tlabel\nit is good\tyes\nit is bad\tno\n"
CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\nBlackburn NNP I-PER\n"


def file(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_tsv_and_jsonl_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [TextRow(2, ("it is good",), "yes"), TextRow(3, ("it is bad",), "no")]
    assert read_table(file(tmp_path, "a.tsv", TSV), ["sentence"], "label") == rows
    lines = '\n{"label": "yes", "sentence": "it is good"}\n{"sentence": "it is bad", "label": "no"}\n'
    assert read_table(file(tmp_path, "a.jsonl", lines), ["sentence"], "label") == rows


def test_quotes_and_windows_lines_are_taken_as_they_stand(tmp_path: Path) -> None:
    path = file(tmp_path, "a.tsv", '\ufeffa\tb\tlabel\r\nsaid "no\t"x"\t1\r\n')
    assert read_table(path, ["a", "b"], "label") == [TextRow(2, ('said "no', '"x"'), "1")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.tsv", TSV.replace("label", "lable", 1), "has no column 'label' (did you mean 'lable'?)"),
        ("a.tsv", "x\ty\n1\t2\n", "has no column 'sentence' (it has: x, y)"),
        ("a.tsv", "sentence\tsentence\tlabel\n", ":1: column 'sentence' stands twice"),
        ("a.tsv", TSV + "only one\n", ":4: 1 field, but the first line names 2"),
        ("a.tsv", TSV + " \tyes\n", ":4: column 'sentence' is empty"),
        ("a.tsv", "sentence\tlabel\n", "holds no example"),
        ("a.tsv", "", "has no column 'sentence'"),
        ("a.tsv", TSV.encode() + b"\xff\tyes\n", ":4: is not UTF-8 text: byte 0xff at character 1"),
        ("a.tsv", TSV + "a\0b\tyes\n", ":4: holds a NUL byte"),
        ("a.csv", TSV, "must end in .tsv or .jsonl"),
        ("a.tsv", TSV + "\t\n", ":4: column 'sentence' is empty"),
        (
            "a.jsonl",
            '{"sentence": "x", "label": "yes", "label": "no"}\n',
            ":1: is not JSON: a key occurs twice",
        ),
        ("a.jsonl", "{\n", ":1: is not JSON"),
        ("a.jsonl", "[1]\n", ":1: must be an object"),
        ("a.jsonl", '{"sentence": "x"}\n', ":1: has no column 'label'"),
        ("a.jsonl", '{"sentence": "x", "label": 0.5}\n', ":1: label must be text or a whole number"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_table(file(tmp_path, name, text), ["sentence"], "label")
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.tsv: cannot be read: No such file"):
        read_table(str(tmp_path / "gone.tsv"), ["sentence"], "label")


def test_conll_sentences(tmp_path: Path) -> None:
    first, second = read_conll(file(tmp_path, "a.conll", CONLL), 0, -1)
    assert (first.line, first.words, first.labels) == (3, ("EU", "rejects"), ("B-ORG", "O"))
    assert (second.line, second.words, second.labels) == (6, ("Peter", "Blackburn"), ("B-PER", "I-PER"))
    with pytest.raises(UserError, match=r"a\.conll:3: has 3 columns, 0 to 2; data\.label_column is 3"):
        read_conll(str(tmp_path / "a.conll"), 0, 3)
    with pytest.raises(UserError, match="holds no sentence"):
        read_conll(file(tmp_path, "b.conll", "\n\n"), 0, -1)


def test_only_blanks_and_tabs_separate_columns(tmp_path: Path) -> None:
    words = ("New\u00a0York", "\u00a0", "\u3000", "x\u0085y", "Paris")
    text = "".join(
        f"{word}{gap}O\n" for word, gap in zip(words, ("\t", "  ", "\t", " ", " \t "), strict=True)
    )
    (sentence,) = read_conll(file(tmp_path, "a.conll", "\ufeff" + text), 0, -1)
    assert (sentence.words, sentence.labels) == (words, ("O",) * 5)
    (sentence,) = read_conll(file(tmp_path, "a.conll", "\ufeff-DOCSTART- -X- O\n\nEU O \n"), 0, -1)
    assert (sentence.line, sentence.words, sentence.labels) == (3, ("EU",), ("O",))


def test_comments_before_a_sentence_are_left_out(tmp_path: Path) -> None:
    text = "# sent_id = 1\n#\n# O\nEU B-ORG\nwon O\n\n#tag O\n"
    one, two = read_conll(file(tmp_path, "a.conll", text), 0, -1)
    assert (one.line, one.words, one.labels) == (3, ("#", "EU", "won"), ("O", "B-ORG", "O"))
    assert (two.line, two.words) == (7, ("#tag",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EU B-ORG\nis\n", ":2: columns between blanks or tabs: 1, in the lines before 2"),
        ("EU NNP B-ORG\nNew York NNP B-LOC\n", ":2: columns between blanks or tabs: 4"),
        ("EU NN O\n\tNN\tO\n", ":2: begins with a blank or tab: its first column is empty"),
        ("EU\nis\n", ":1: has 1 columns; data.word_column 0 and data.label_column -1 are the same one"),
        ("# newdoc\nEU O\n", ":1: is a comment, or the word # of a class 'newdoc'"),
        ("EU O\n# sent_id = 1\n", ":2: columns between blanks or tabs: 4"),
    ],
)
def test_odd_lines_of_conll_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_conll(file(tmp_path, "a.conll", text), 0, -1)
    assert f"a.conll{said}" in str(caught.value)


def test_a_word_without_a_token_does_not_give_its_class_to_the_next(tmp_path: Path) -> None:
    """A tokenizer from elsewhere may normalise, and then a no-break space is nothing."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c no yes"] * 9),
        model_prefix=str(tmp_path / "m"),
        vocab_size=300,
        byte_fallback=True,
        model_type="char",
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    tokenizer = own_tokenizer("char", (tmp_path / "m.model").read_bytes())
    sentence = read_conll_text("a no\n\u00a0 yes\nb no\n")
    with pytest.raises(UserError, match=r"a\.conll:2: the word '\\xa0' is nothing to this tokenizer"):
        encode_sentence(sentence, "a.conll", tokenizer, SPECIAL, LABELS, 32)


def test_labels_of_training_and_of_nothing_else() -> None:
    labels = training_labels("t.tsv", ["no", "yes", "no"], None)
    assert labels == Labels(("no", "yes"))
    assert labels.number("yes", "dev.tsv:2") == 1
    with pytest.raises(UserError, match=r"dev\.tsv:7: label 'yess' does not occur .*did you mean 'yes'"):
        labels.number("yess", "dev.tsv:7")
    with pytest.raises(UserError, match=r"t\.tsv: class 'maybe' of data\.labels is empty"):
        training_labels("t.tsv", ["no", "yes"], ("no", "yes", "maybe"))
    with pytest.raises(UserError, match=r"t\.tsv: label 'x' is not in data\.labels: no, yes"):
        training_labels("t.tsv", ["no", "yes", "x"], ("no", "yes"))
    with pytest.raises(UserError, match="every example is of the class 'no'"):
        training_labels("t.tsv", ["no", "no"], None)


TOKENIZER = train_tokenizer([TSV, CONLL, "abcdefghijklmnopqrstuvwxyz"], "char", bert=True)
SPECIAL = TOKENIZER.bert_ids or BertIds(0, 0, 0, 0)
LABELS = Labels(("no", "yes"))
CODE = (TOKENIZER, SPECIAL, LABELS)


def test_a_pair_is_cut_at_the_longer_end() -> None:
    row = TextRow(2, ("abcdef", "xy"), "yes")
    whole = encode_row(row, "a.tsv", TOKENIZER, SPECIAL, LABELS, 32)
    assert (whole.tokens[0], whole.tokens[7], whole.tokens[-1]) == (SPECIAL.cls, SPECIAL.sep, SPECIAL.sep)
    assert whole.token_types == (0,) * 8 + (1,) * 3
    assert (whole.label, whole.cut) == (1, 0)
    cut = encode_row(row, "a.tsv", TOKENIZER, SPECIAL, LABELS, 8)
    assert TOKENIZER.decode(cut.tokens) == "abcxy"
    assert (len(cut.tokens), cut.cut) == (8, 3)


def test_the_first_token_of_a_word_carries_its_class() -> None:
    sentence = read_conll_text("ab no\nc yes\n")
    example = encode_sentence(sentence, "a.conll", TOKENIZER, SPECIAL, LABELS, 32)
    assert TOKENIZER.decode(example.tokens) == "ab c"
    assert [tag for tag in example.tags if tag != NO_LABEL] == [0, 1]
    assert example.tags[1] == 0
    assert example.words == (0, 1)
    short = encode_sentence(sentence, "a.conll", TOKENIZER, SPECIAL, LABELS, 4)
    assert (short.words, [tag for tag in short.tags if tag != NO_LABEL], short.cut) == ((0, 1), [0], 2)


def read_conll_text(text: str):  # type: ignore[no-untyped-def]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_conll(file(Path(folder), "a.conll", text), 0, -1)[0]


def some_data(count: int = 12) -> LabelledData:
    examples = tuple(
        encode_row(
            TextRow(n, ("ab" * (n % 5 + 1),), LABELS.names[n % 2]), "a", TOKENIZER, SPECIAL, LABELS, 64
        )
        for n in range(count)
    )
    return LabelledData("a", examples, LABELS, False, SPECIAL.pad, 8, 64, fingerprint(examples, LABELS))


def test_batches_do_not_depend_on_the_ranks_and_each_epoch_has_every_example() -> None:
    data = some_data()
    training = LabelledTraining.over(data, TOKENIZER, Path("t"), 3, 4, 2)
    for step in range(6):
        alone = [training.batch(step, index, 0, 1) for index in range(2)]
        ranks = [training.batch(step, 0, rank, 2) for rank in range(2)]
        assert [batch.sample_ids for batch in alone] == [batch.sample_ids for batch in ranks]
        assert all((a.tokens == b.tokens).all() for a, b in zip(alone, ranks, strict=True))
        assert alone[0].tokens.shape[1] % 8 == 0
    seen = [place for step in range(3) for place in training.places(range(4 * step, 4 * step + 4))]
    again = [place for step in range(3, 6) for place in training.places(range(4 * step, 4 * step + 4))]
    assert sorted(seen) == sorted(again) == list(range(12))
    assert seen != again


def test_no_batch_is_longer_than_what_the_model_takes() -> None:
    data = some_data()
    longest = max(len(example.tokens) for example in data.examples)
    assert longest % 8
    for length, width in ((longest, longest), (longest + 1, longest + 1), (64, -(-longest // 8) * 8)):
        assert replace(data, length=length).width(range(12)) == width


@pytest.mark.parametrize("size", [1, 2, 3])
def test_validation_scores_each_example_once(size: int) -> None:
    validation = LabelledValidation(some_data(11))
    ids = [
        sample
        for rank in range(size)
        for batch in validation.micro_batches(rank, size, 2)
        for sample in batch.sample_ids
    ]
    assert sorted(sample for sample in ids if sample >= 0) == list(range(11))
    assert {len(list(validation.micro_batches(rank, size, 2))) for rank in range(size)} == {
        validation.batches(size, 2)
    }


def test_entities_as_conlleval_counts_them() -> None:
    assert entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]) == {
        (0, 2, "PER"),
        (3, 4, "LOC"),
        (4, 5, "LOC"),
        (5, 6, "PER"),
    }
    assert entities([]) == set()


def test_scores_of_answers(tmp_path: Path) -> None:
    data = some_data(4)  # no, yes, no, yes
    answers = Predictions(data, ((0,), (1,), (1,), (1,)))
    found = answers.metrics()
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    answers.write(tmp_path / "p.jsonl")
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert lines[2] == '{"line": 2, "label": "no", "prediction": "yes"}'
    assert len(lines) == 4
