"""Tokenizers that were made elsewhere: the ids of their own libraries, and nothing changed in silence."""

import base64
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken.load
from foreign_tokenizers import (
    KINDS,
    LOSSLESS,
    documents,
    llama2,
    make,
    sentencepiece_model,
    unigram,
    write_pair,
)
from tokenizers import Tokenizer as Library
from typer.testing import CliRunner

from data_tools.builder import BuildOptions, build
from data_tools.cli import app
from data_tools.errors import UserError
from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.segments import STRETCH_CHARACTERS
from data_tools.tokenizers.tiktoken import ENCODINGS

Loaded = dict[str, tuple[Path, Tokenizer]]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    found: Loaded = {}
    for kind in KINDS:
        path = make(kind, tmp_path_factory.mktemp(kind))
        found[kind] = path, load(kind, path)
    return found


def load(kind: str, path: Path) -> Tokenizer:
    return Tokenizer.load(path, encoding="cl100k_base" if kind == "tiktoken" else None)


def reference(kind: str, path: Path) -> Callable[[str], list[int]]:
    """The ids of the kind's own library, in which special tokens that a text spells are text."""
    if kind == "sentencepiece":
        encode: Callable[[str], list[int]] = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode
        return encode
    if kind == "tiktoken":
        ranks = tiktoken.load.load_tiktoken_bpe(str(path))
        pattern = (  # as tiktoken_ext.openai_public has it
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
            r"|\s*[\r\n]|\s+(?!\S)|\s"
        )
        return tiktoken.Encoding(
            "", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        ).encode_ordinary
    from transformers import PreTrainedTokenizerFast

    theirs: Any = PreTrainedTokenizerFast.from_pretrained(path, split_special_tokens=True)
    return lambda text: list(theirs(text, add_special_tokens=False)["input_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_a_thousand_documents_are_those_of_its_own_library(loaded: Loaded, kind: str) -> None:
    path, tokenizer = loaded[kind]
    encode = reference(kind, path)
    different = 0
    for text in documents(1000, seed=1):
        ids, theirs = tokenizer.encode(text), encode(text)
        if tokenizer.eod_id in theirs:  # the text spells </s>, and the bare library is taken in
            assert kind == "unigram" and "</s>" in text
            different += 1
        else:
            assert ids == theirs, text
    assert bool(different) == (kind == "unigram")


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_spells_a_special_token(loaded: Loaded, kind: str) -> None:
    _, tokenizer = loaded[kind]
    special = set(tokenizer.special.values()) - {
        tokenizer.special.get(name, -1) for name in ("<unk>", "[UNK]")
    }
    assert tokenizer.eod_id in special and {*tokenizer.begin_ids} <= special
    for name in tokenizer.special:
        for text in (name, f"a {name} b", f"a{name}b", f"{name}{name}\n"):
            assert special.isdisjoint(tokenizer.encode(text)), text
    assert tokenizer.decode([tokenizer.eod_id]) == ""


def test_what_the_bare_library_makes_of_a_hostile_page() -> None:
    """The reason for the test above: without it, two of the kinds would be taken in."""
    for make_library in (unigram, llama2):
        library, _ = make_library()
        assert library.token_to_id("</s>") in library.encode("a </s> b", add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_which_texts_come_back_is_found_out(loaded: Loaded, kind: str) -> None:
    _, tokenizer = loaded[kind]
    assert bool(tokenizer.loss) == (kind not in LOSSLESS)
    for text in documents(50, seed=2):
        back = tokenizer.decode_bytes(tokenizer.encode(text), begins=True).decode()
        assert back == text or tokenizer.loss
        if kind == "llama2":
            assert back == text.replace("\u2581", " ")
        if kind == "wordpiece":  # BERT's own idea of a text: words and punctuation, without case
            assert not [word for word in back.split(" ") if any(sign.isupper() for sign in word)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_encoded_as_a_whole(
    loaded: Loaded, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer = loaded[kind]
    text = " ".join(documents(200, seed=3))
    whole = tokenizer.codec.encode(text).tolist()
    monkeypatch.setattr("data_tools.tokenizers.segments.stretches.__kwdefaults__", {"most": 100})
    parts = list(tokenizer.segments(text[at : at + 77] for at in range(0, len(text), 77)))
    assert "".join(parts) == text and (len(parts) > 20) == (kind != "llama2")
    assert tokenizer.encode(text) == whole and STRETCH_CHARACTERS > 100


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_kept_byte_for_byte(loaded: Loaded, kind: str, tmp_path: Path) -> None:
    path, tokenizer = loaded[kind]
    main = path / "tokenizer.json" if path.is_dir() else path
    if kind not in ("tiktoken", "llama3", "wordpiece"):  # where files beside it, or an option, say more
        assert tokenizer.fingerprint == hashlib.sha256(main.read_bytes()).hexdigest()
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    copied = pickle.loads(pickle.dumps(tokenizer))
    for other in (again, copied):
        assert other.fingerprint == tokenizer.fingerprint and other.loss == tokenizer.loss
        assert other.codec.roles == tokenizer.codec.roles
        assert other.encode("Straße </s>") == tokenizer.encode("Straße </s>")
    again.write_original(tmp_path / "out")
    for each in sorted(main.parent.iterdir()):
        assert (tmp_path / "out" / each.name).read_bytes() == each.read_bytes()
    (tmp_path / "saved/original" / main.name).write_bytes(main.read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed; copy the tokenizer again") as caught:
        Tokenizer.load(tmp_path / "saved")
    assert caught.value.exit_code == 3


def test_roles_are_read_from_the_files(loaded: Loaded, tmp_path: Path) -> None:
    assert loaded["gpt2"][1].roles == "end of document 0"
    assert loaded["llama3"][1].roles == "end of document 401, before a text 400"
    bert = "end of document 3, [PAD] 0, [CLS] 2, [SEP] 3, [MASK] 4"
    assert loaded["wordpiece"][1].roles == bert
    path = loaded["llama3"][0]
    chosen = Tokenizer.load(path, end_of_document="<|eot_id|>")
    assert (chosen.eod_id, chosen.begin_ids) == (402, (400,))
    assert chosen.fingerprint != loaded["llama3"][1].fingerprint
    wide = Tokenizer.load(path, rows=512)
    assert wide.vocab_size == 512 and wide.decode([450]) == "" and wide.encode("the") == chosen.encode("the")
    wide.save(tmp_path / "wide")
    assert Tokenizer.load(tmp_path / "wide").vocab_size == 512
    with pytest.raises(UserError, match="has 403 ids and the embedding 402 rows: it is of another model"):
        Tokenizer.load(path, rows=402)
    # As a Llama 3's folder, where config.json alone names the end.
    (tmp_path / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"eos_token_id": [402, 401]}')
    named = Tokenizer.load(tmp_path)
    assert named.eod_id == 402 and "config.json" not in named.codec.files


def build_shards(path: Path, output: Path, *texts: str, **options: Any) -> ShardReader:
    lines = output.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build(BuildOptions((str(lines),), str(path), str(output), workers=1, block_tokens=1024, **options))
    return ShardReader(output)


def test_a_build_from_a_tokenizer_that_changes_texts_says_so(loaded: Loaded, tmp_path: Path) -> None:
    path, tokenizer = loaded["wordpiece"]
    with pytest.raises(UserError, match="changes texts: 'W' comes back as 'w'; --lossy takes it"):
        build_shards(path, tmp_path / "refused", "a")
    texts = ["The END [SEP] of it.", "Wort"]
    reader = build_shards(path, tmp_path / "shards", *texts, lossy=True)
    ids = reader.read(0, len(reader)).tolist()
    assert ids == [*tokenizer.encode(texts[0]), 3, *tokenizer.encode(texts[1]), 3] and ids.count(3) == 2
    assert reader.index.lossy is True and reader.tokenizer().loss == tokenizer.loss
    assert (reader.index.bytes, reader.index.words) == (24, 6)
    assert tokenizer.facts["tokenizer_loss"] == tokenizer.loss  # what the result of an evaluation says
    assert '"lossy": true' in (tmp_path / "shards/index.json").read_text()
    said = CliRunner().invoke(app, ["inspect", str(tmp_path / "shards")]).output
    assert "the tokenizer changes texts: 'W' comes back as 'w'" in said and "[CLS] 2" in said
    with pytest.raises(UserError, match="--lossy: has no effect"):
        build_shards(loaded["gpt2"][0], tmp_path / "lossless", "a", lossy=True)
    reader = build_shards(loaded["gpt2"][0], tmp_path / "lossless", "<|endoftext|>")
    assert reader.index.lossy is None and "lossy" not in (tmp_path / "lossless/index.json").read_text()
    assert reader.read(0, len(reader)).tolist().count(0) == 1


def test_documents_begin_as_the_tokenizer_begins_a_text(loaded: Loaded, tmp_path: Path) -> None:
    path, tokenizer = loaded["llama3"]
    reader = build_shards(path, tmp_path / "shards", "the of", "", "and")
    ids = reader.read(0, len(reader)).tolist()
    assert ids == [400, *tokenizer.encode("the of"), 401, 400, *tokenizer.encode("and"), 401]
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "shards")]).exit_code == 0


@pytest.mark.parametrize("kind", ["gpt2", "wordpiece", "sentencepiece", "llama2"])
def test_sentences_begin_where_their_tokens_do(loaded: Loaded, tmp_path: Path, kind: str) -> None:
    """Also where the pieces of a text have another length than the text."""
    path, tokenizer = loaded[kind]
    lines = ["The naïve слово of", "Straße 漢字 in it", "and that"]
    reader = build_shards(
        path, tmp_path / "shards", "\n".join(lines), lossy=bool(tokenizer.loss), sentences="lines"
    )
    assert reader.sentences is not None
    at = [reader.sentences.at(number) for number in range(len(reader.sentences))]
    assert len(at) == 3 and at[0] == 0
    words = [
        tokenizer.decode(reader.read(start, min(start + 4, len(reader))).tolist()).split() for start in at
    ]
    assert [found[0].lower()[:2] for found in words] == ["th", "st", "an"]


def changed(path: Path, change: Callable[[dict[str, Any]], object], to: Path) -> str:
    tree = json.loads((path / "tokenizer.json").read_text())
    change(tree)
    to.mkdir()
    (to / "tokenizer.json").write_text(json.dumps(tree))
    return str(to)


def test_bad_tokenizers_are_refused_in_one_message(loaded: Loaded, tmp_path: Path) -> None:
    path = loaded["gpt2"][0]
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes()[:-900])
    other = Path(changed(path, lambda tree: None, tmp_path / "other"))
    (other / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    ranks = "\n".join(
        f"{base64.b64encode(bytes([value])).decode()} {value + (value > 9)}" for value in range(256)
    )
    (tmp_path / "holes.tiktoken").write_text(ranks)
    (tmp_path / "some.tiktoken").write_text("YQ== 0\n")
    (tmp_path / "bad.model").write_bytes(sentencepiece_model()[:700])
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty").mkdir()

    def hole(tree: dict[str, Any]) -> None:
        del tree["model"]["vocab"]["a"]
        tree["model"]["merges"] = []

    def one(name: str, change: Callable[[dict[str, Any]], object]) -> str:
        return changed(path, change, tmp_path / name)

    own, tik = {"encoding": "r50k_base"}, "some.tiktoken"
    cases: list[tuple[object, dict[str, str], str]] = [
        (cut, {}, "tokenizer.json: is not valid JSON"),
        (one("w", lambda tree: tree.update(model=words)), {}, "model type 'WordLevel'; known are BPE, Word"),
        (one("hole", hole), {}, "no piece has id 65, and the largest is 399"),
        (one("two", lambda tree: tree["model"]["vocab"].update(z9=7)), {}, "id 7 stands for two pieces"),
        (one("ctc", lambda tree: tree.update(decoder={"type": "CTC"})), {}, "decoder 'CTC'; known are Byte"),
        (one("no", lambda tree: tree.update(added_tokens=[])), {}, "does not say which id ends a document"),
        (one("none", lambda tree: tree.pop("model")), {}, "has no key 'model'"),
        (other, {}, "has no '</s>', which is the eos_token of its folder: it is of another model"),
        (path, {"end_of_document": "<e>"}, "'<e>' is none of its special tokens (<|endoftext|>)"),
        (path, own, "--encoding r50k_base: has an effect on ranks of tiktoken alone"),
        (tmp_path / "holes.tiktoken", own, "line 11: rank 11 instead of 10: ranks must have no holes"),
        (tmp_path / tik, own, "has no rank for each of the 256 bytes"),
        (tmp_path / tik, {}, f"say by --encoding whose pattern they are for: {', '.join(ENCODINGS)}"),
        (tmp_path / tik, {"encoding": "gpt9"}, "--encoding gpt9: known are r50k_base"),
        (tmp_path / "bad.model", {}, "bad.model: is no sentencepiece tokenizer: "),
        (tmp_path / "list.json", {}, "list.json: is no huggingface tokenizer: "),
        (tmp_path / "empty", {}, "not a tokenizer directory or file (holds no *.json, *.model, *.tik"),
        (tmp_path / "nowhere", {}, "not a tokenizer directory or file (no such file or folder)"),
    ]
    for number, (tokenizer, options, said) in enumerate(cases):
        with pytest.raises(UserError) as caught:
            build_shards(Path(str(tokenizer)), tmp_path / f"out{number}", "a", **options)
        assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
        assert caught.value.exit_code == 2


def test_shards_of_megatron_are_those_of_the_texts(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokenizer = loaded["gpt2"]
    texts = [*documents(60, seed=4), "x"]
    texts = [text.replace("<|endoftext|>", "<|im_end|>") for text in texts]
    expected = build_shards(path, tmp_path / "text", *texts)
    write_pair(tmp_path / "pair", [[*tokenizer.encode(text), tokenizer.eod_id] for text in texts])
    monkeypatch.setattr("data_tools.partition.SMALLEST_TARGET", 1000)
    found = {}
    for name in ("pair.bin", "plain.bin"):
        build(BuildOptions((str(tmp_path / name),), str(path), str(tmp_path / name[:-4]), workers=1))
        found[name] = ShardReader(tmp_path / name[:-4])
        write_pair(
            tmp_path / "plain", [tokenizer.encode(text) for text in texts]
        )  # without ends, for the next
        reader = found[name]
        assert len(reader.index.shards) > 3
        assert reader.read(0, len(reader)).tolist() == expected.read(0, len(expected)).tolist()
        size = len(expected)
        assert reader.document_starts(0, size).tolist() == expected.document_starts(0, size).tolist()
        for key in ("documents", "tokens", "bytes", "words", "tokenizer_fingerprint"):
            assert getattr(reader.index, key) == getattr(expected.index, key), key


def test_bad_pairs_are_refused(loaded: Loaded, tmp_path: Path) -> None:
    path, _ = loaded["gpt2"]
    for name, ids in {"beyond": [5, 400], "midst": [5, 0, 6], "good": [5, 6], "cut": [5, 6]}.items():
        write_pair(tmp_path / name, [[7], ids])
    (tmp_path / "cut.bin").write_bytes((tmp_path / "cut.bin").read_bytes()[:-2])
    (tmp_path / "damaged.bin").write_bytes(b"1234")
    (tmp_path / "damaged.idx").write_bytes(b"MMIDIDX\x00\x00")
    (tmp_path / "alone.bin").write_bytes(b"1234")
    cases = {
        "beyond": "document 1 holds id 400, and the tokenizer has ids 0 to 399: it was made with another one",
        "midst": "document 1 holds id 0 in its midst, which ends a document in this tokenizer",
        "cut": "holds 4 bytes, and",
        "damaged": "damaged.idx: is no index of Megatron",
        "alone": "alone.bin: unknown ending",
    }
    for name, said in cases.items():
        with pytest.raises(UserError) as caught:
            build(
                BuildOptions(
                    (str(tmp_path / f"{name}.bin"),), str(path), str(tmp_path / f"{name}-out"), workers=1
                )
            )
        assert said in str(caught.value) and caught.value.exit_code == 2, str(caught.value)
    good = BuildOptions((str(tmp_path / "good.bin"),), str(path), str(tmp_path / "o"), sentences="lines")
    with pytest.raises(UserError, match="--sentences lines: has no effect on"):
        build(good)


def test_training_a_wordpiece(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(documents(300)))
    for name, more in {"a": [], "b": [], "cased": ["--cased"]}.items():
        command = ["tokenizer", "-i", str(text), "--model-type", "wordpiece", "--vocab-size", "250"]
        done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        assert "it changes texts:" in done.output
    tokenizer = Tokenizer.load(tmp_path / "a")
    assert (tokenizer.vocab_size, tokenizer.special) == (
        250,
        {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4},
    )
    assert tokenizer.fingerprint == Tokenizer.load(tmp_path / "b").fingerprint
    assert tokenizer.encode("THE") == tokenizer.encode("the")
    cased = Tokenizer.load(tmp_path / "cased")
    assert cased.encode("Wort") != cased.encode("wort")
    library = Library.from_file(str(tmp_path / "a/original/tokenizer.json"))
    assert library.encode("the of").ids == [2, *tokenizer.encode("the of"), 3]
    begins, _ = tokenizer.word_edges
    assert begins[tokenizer.encode("the of")].any()
    wordpiece = ["--model-type", "wordpiece"]
    for options, said in (
        (["--model-type", "bpe", "--cased"], "--cased: has no effect on --model-type bpe"),
        ([*wordpiece, "--bert"], "--bert: has no effect on --model-type wordpiece"),
        ([*wordpiece, "--vocab-size", "99999"], "too large for this text; the largest possible is"),
        ([*wordpiece, "--vocab-size", "20"], "too small for this text; the smallest possible is"),
    ):
        command = ["tokenizer", "-i", str(text), "-o", str(tmp_path / "no"), *options]
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, UserError) and said in str(error), error
