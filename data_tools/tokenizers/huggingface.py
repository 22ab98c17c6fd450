"""A `tokenizer.json` of Hugging Face's `tokenizers`: BPE, WordPiece or Unigram.

The library turns special tokens that are written in a text into control tokens, some of them even where it is
told not to (a Unigram or WordPiece model whose vocabulary holds them). Here no text spells one: in the copy
that the library gets, each has a secret name.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from data_tools.bounded import parse_json
from data_tools.errors import UserError
from data_tools.tokenizers.codec import BERT_PIECES, SPACE_SYMBOL, BertIds, ForeignCodec, Ids, Offsets, Roles
from data_tools.tokenizers.hf_files import BERT_ROLES, CONFIG, SPECIAL, named_tokens, read_object
from data_tools.typed import natural

MODELS = ("BPE", "WordPiece", "Unigram")
DECODERS = ("ByteLevel", "WordPiece", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip")
MODEL_CONFIG = "config.json"
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end|>", "[SEP]")
"""How well-known tokenizers name the end of a document, for a file that is alone."""


class HuggingFaceCodec(ForeignCodec):
    """Encoded by the library `tokenizers`."""

    kind = "huggingface"
    ENDING = ".json"
    MAIN: ClassVar[str] = "tokenizer.json"
    HINTS = (MODEL_CONFIG,)
    BESIDE = (
        CONFIG,
        SPECIAL,
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    )

    def read(self, main: bytes) -> list[bytes]:
        """As `ForeignCodec.read`."""
        self._tree: dict[str, Any] = parse_json(main)
        model = self._tree["model"]
        kind = model.get("type") or _untagged(model)
        if kind not in MODELS:
            raise UserError(f"model type {kind!r:.60}; known are {', '.join(MODELS)}")
        added = {token["content"]: token for token in self._tree.get("added_tokens") or ()}
        self._ids = _ids(model["vocab"], added)
        self._special = {name: self._ids[name] for name, token in added.items() if token["special"]}
        self._plain = {self._ids[name] for name in added.keys() - self._special.keys()}
        self._unknown = self._unknown_id(model)
        steps = list(_steps(self._tree.get("decoder"), "decoders"))
        unknown = [step["type"] for step in steps if step["type"] not in DECODERS]
        if unknown:
            raise UserError(f"decoder {unknown[0]!r:.60}; known are {', '.join(DECODERS)}")
        self._library = self._open()
        return self._pieces(steps)

    def _unknown_id(self, model: Mapping[str, Any]) -> int | None:
        found = model.get("unk_id", self._ids.get(model.get("unk_token") or ""))
        return None if found is None else natural(found)

    def _pieces(self, steps: list[dict[str, Any]]) -> list[bytes]:
        """The bytes of each id, by the steps of the decoder; what the table says is tried on texts later."""
        kinds = {step["type"] for step in steps}
        by_byte = _byte_alphabet() if "ByteLevel" in kinds else {}
        words = next((step.get("prefix") or "##" for step in steps if step["type"] == "WordPiece"), None)
        strips = any(step["type"] == "Strip" and step.get("start") for step in steps)
        heads = any(
            step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps
        )
        self.drops_space = words is not None or strips or heads
        silent = {*self._special.values(), self._unknown}
        pieces = [b""] * len(self._ids)
        for name, value in self._ids.items():
            if value in silent:
                continue
            if value in self._plain:
                pieces[value] = name.encode()
            elif by_byte and all(letter in by_byte for letter in name):
                pieces[value] = bytes(by_byte[letter] for letter in name)
            elif words is not None:
                name = name.removeprefix(words) if name.startswith(words) else f" {name}"
                pieces[value] = name.encode()
            elif "ByteFallback" in kinds and len(name) == 6 and name.startswith("<0x"):
                pieces[value] = bytes([int(name[3:5], 16)])
            else:
                pieces[value] = (name.replace(SPACE_SYMBOL, " ") if kinds else name).encode()
        return pieces

    def _open(self) -> Any:
        """The library's tokenizer, which knows special tokens by secret names alone."""
        from tokenizers import Tokenizer

        secret = secrets.token_hex(32)
        hidden = {name: f"{secret}-{value}" for name, value in self._special.items()}
        model = dict(self._tree["model"])
        vocab = model["vocab"]
        if isinstance(vocab, dict):
            model["vocab"] = {hidden.get(name, name): value for name, value in vocab.items()}
        else:
            model["vocab"] = [[hidden.get(name, name), score] for name, score in vocab]
        if "merges" in model:  # none may make a special token of the letters of its name
            pairs = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
            model["merges"] = [pair for pair in pairs if hidden.keys().isdisjoint((*pair, "".join(pair)))]
        if model.get("unk_token") in hidden:
            model["unk_token"] = hidden[model["unk_token"]]
        added = [
            {**token, "content": hidden.get(token["content"], token["content"])}
            for token in self._tree.get("added_tokens") or ()
        ]
        tree = {**self._tree, "model": model, "added_tokens": added}
        tree |= dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
        try:
            return Tokenizer.from_str(json.dumps(tree))
        except Exception as error:  # the library raises plain exceptions
            raise ValueError(str(error)[:200]) from None

    def roles_from(self, files: Mapping[str, bytes], eod: str | int | None) -> Roles:
        """As `ForeignCodec.roles_from`."""
        named: dict[str, str] = {}
        for file in (SPECIAL, CONFIG):
            named |= named_tokens(file, files)
        for role in ("eos_token", *BERT_ROLES):
            if role in named and named[role] not in self._ids:
                raise UserError(
                    f"has no {named[role]!r}, which is the {role} of its folder: it is of another model"
                )
        bert = [
            self._special.get(named.get(role, name))
            for role, name in zip(BERT_ROLES, BERT_PIECES, strict=True)
        ]
        found = BertIds(*bert) if None not in bert else None  # type: ignore[arg-type]
        end = eod if isinstance(eod, int) else self._end(named, files, eod)
        begin = () if found else tuple(value for value in self._begin() if value != end)
        return Roles(end, begin, found, self._special)

    def _end(self, named: Mapping[str, str], files: Mapping[str, bytes], chosen: str | None) -> int:
        if chosen is not None:
            return self._control(chosen)
        if "eos_token" in named:
            return self._control(named["eos_token"])
        ids = read_object(MODEL_CONFIG, files).get("eos_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if type(first) is int and first in self._special.values():
            return first
        guessed = [name for name in ENDS if name in self._special]
        if "sep_token" in named:
            guessed.append(named["sep_token"])
        if not guessed:
            raise UserError(
                "does not say which id ends a document; name it with --end-of-document: "
                f"{', '.join(list(self._special)[:8]) or 'but there is no special token'}"
            )
        return self._special[guessed[0]]

    def _control(self, name: str) -> int:
        if name not in self._special:
            known = ", ".join(list(self._special)[:8]) or "there are none"
            raise UserError(f"{name!r} is none of its special tokens ({known})")
        return self._special[name]

    def _begin(self) -> Iterator[int]:
        """The ids that the library's own post-processor puts before a text."""
        for step in _steps(self._tree.get("post_processor"), "processors"):
            for item in step.get("single") or () if step["type"] == "TemplateProcessing" else ():
                if "SpecialToken" not in item:
                    break
                yield self._control(item["SpecialToken"]["id"])

    def encode(self, text: str) -> Ids:
        # encode_batch_fast leaves out the offsets of tokens, which take a third of the time.
        found = self._library.encode_batch_fast([text], add_special_tokens=False)
        return np.array(found[0].ids, np.int32)

    def token_starts(self, text: str, ids: Ids) -> Offsets:
        found = self._library.encode(text, add_special_tokens=False)
        starts = np.array([start for start, _ in found.offsets], np.int64)
        if text.isascii():
            return starts
        sizes = np.fromiter((len(letter.encode()) for letter in text), np.int64, len(text))
        return np.concatenate([[0], np.cumsum(sizes)])[starts]


def _untagged(model: Mapping[str, Any]) -> str:
    """The type of a model in a file that does not name it, as the library finds it out."""
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model["vocab"], list) else "WordPiece"


def _ids(vocab: Any, added: Mapping[str, Any]) -> dict[str, int]:
    """Every name and its id. Raises UserError for holes and for an id of two names."""
    found: dict[str, int] = (
        dict(vocab) if isinstance(vocab, dict) else {name: value for value, (name, _) in enumerate(vocab)}
    )
    if not isinstance(vocab, dict) and len(found) < len(vocab):
        raise UserError("its vocabulary holds a piece twice")
    for name, token in added.items():
        if found.setdefault(name, token["id"]) != token["id"]:
            raise UserError(f"{name!r} has id {found[name]} and, as an added token, {token['id']}")
    ids = np.sort(np.fromiter(map(natural, found.values()), np.int64, len(found)))
    wrong = np.flatnonzero(ids != np.arange(len(ids)))
    if len(wrong):
        first = int(wrong[0])
        what = "stands for two pieces" if first and ids[first] == ids[first - 1] else None
        raise UserError(
            f"id {ids[first]} {what}" if what else f"no piece has id {first}, and the largest is {ids[-1]}"
        )
    return found


def _steps(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """The steps of a decoder or a post-processor, of which some are sequences."""
    if value is None:
        return
    if value["type"] == "Sequence":
        for step in value[key]:
            yield from _steps(step, key)
    else:
        yield value


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al. 2019, `encoder.py`):
    printable ones for themselves, the others for U+0100 and on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
