"""Tiny tokenizers of each kind that others make, trained in the test, and texts in many scripts."""

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

_WORDS = (
    "word Wort mot слово λέξη מילה كلمة शब्द শব্দ சொல் คำ བོད սեր სიტყვა ቃል 言葉 ことば 단어 từ naïve don't "
    "x_1 3.14 http://a.b/?c=d <|endoftext|> </s> [SEP] Straße ﬁne e\u0301 \u2581 the of and to in is that it"
)
WORDS = tuple(_WORDS.split(" "))
KINDS = ("gpt2", "llama3", "llama2", "wordpiece", "unigram", "sentencepiece", "tiktoken")
LOSSLESS = ("gpt2", "llama3", "tiktoken")


def documents(count: int, seed: int = 0) -> Iterator[str]:
    """Texts of words in many scripts, with spaces, tabs and lines, and among them hostile ones."""
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randrange(1, 40))
        yield "".join(
            word + draw.choice((" ", " ", " ", "  ", "\n", "\n\n", "\t", ", ", "")) for word in words
        )


def make(kind: str, folder: Path) -> Path:
    """Write a tokenizer of the kind; returns what `--tokenizer` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "sentencepiece":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        return folder / "tokenizer.model"
    if kind == "tiktoken":
        pieces = [bytes([value]) for value in range(256)] + [b"th", b" th", b"the", b" the"]
        lines = [f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(pieces)]
        (folder / "own.tiktoken").write_text("\n".join(lines) + "\n")
        return folder / "own.tiktoken"
    library, config = LIBRARIES[kind]()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    return folder


def gpt2() -> tuple[Any, dict[str, str]]:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    _train(library, trainers.BpeTrainer, 400, ["<|endoftext|>"], alphabet=True)
    return library, {"eos_token": "<|endoftext|>"}


def llama3() -> tuple[Any, dict[str, str]]:
    """With a token that its own library puts before each text, and a model that ignores merges."""
    library, _ = gpt2()
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    library.add_special_tokens([begin, end, "<|eot_id|>"])
    library.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, library.token_to_id(begin))]
    )
    return library, {"bos_token": begin, "eos_token": end}


def llama2() -> tuple[Any, dict[str, str]]:
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"]
    library.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="never"
    )  # to train, as sentencepiece does
    _train(library, trainers.BpeTrainer, 500, [*special, *(f"<0x{byte:02X}>" for byte in range(256))])
    tree = json.loads(library.to_str())
    tree["pre_tokenizer"] = None
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] in special]
    return Library.from_str(json.dumps(tree)), {"bos_token": "<s>", "eos_token": "</s>"}


def wordpiece() -> tuple[Any, dict[str, str]]:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _train(library, trainers.WordPieceTrainer, 300, special)
    return library, {f"{name.strip('[]').lower()}_token": name for name in special}


def unigram() -> tuple[Any, dict[str, str]]:
    """As T5's, whose vocabulary holds </s>, which the bare library finds in any text."""
    library = Library(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    _train(library, trainers.UnigramTrainer, 200, ["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    return library, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def sentencepiece_model(**options: Any) -> bytes:
    model = io.BytesIO()
    settings = {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "minloglevel": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=documents(300), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


def write_pair(prefix: Path, texts: list[list[int]]) -> None:
    """A .bin and a .idx as Megatron's `preprocess_data.py` writes them, by its own builder."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for ids in texts:
        builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def _train(
    library: Any, trainer: Any, size: int, special: list[str], *, alphabet: bool = False, **options: Any
) -> None:
    if alphabet:
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    options |= {"vocab_size": size, "special_tokens": special, "show_progress": False}
    texts = (text.replace("</s>", "") for text in documents(300))
    library.train_from_iterator(texts, trainer(**options))


LIBRARIES = {"gpt2": gpt2, "llama3": llama3, "llama2": llama2, "wordpiece": wordpiece, "unigram": unigram}
