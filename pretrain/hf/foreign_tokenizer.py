"""Imports the tokenizer of a transformers folder as one of ours, if it can be one.

Ours give every text back byte for byte. So a sentencepiece model that changes texts, or lacks byte pieces, is
left behind, and so is everything that has no sentencepiece model. What is imported has been tried on
thousands of texts, against the files that it comes from.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.bounded import read_bytes, read_json
from data_tools.errors import IntegrityError, printable
from data_tools.tokenizer import SPACE_SYMBOL, Tokenizer
from data_tools.typed import natural
from pretrain.errors import UserError
from pretrain.hf.tokenizer import OURS
from pretrain.hf.trial_texts import trial_texts

SENTENCEPIECE = "tokenizer.model"
LIBRARY = "tokenizer.json"
FILES = (
    SENTENCEPIECE,
    LIBRARY,
    f"{OURS}/tokenizer.json",
    f"{OURS}/tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
"""Files that say which text an id stands for, in tokenizers of transformers."""
PIECES = 1000
"""About so many pieces of a vocabulary are tried as texts."""
Encode = Callable[[str], list[int]]
LARGEST_FILE = 1 << 27
"""Bytes; the largest known file, with 256 thousand ids, has a quarter of it."""


@dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer that is imported, or why none is.

    is_ours: it was written by `pretrain export`. why: the reason why it stays behind. files: those that stay
    behind, with sha256.
    """

    tokenizer: Tokenizer | None = None
    is_ours: bool = False
    why: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def find_tokenizer(folder: Path, vocab_size: int) -> FoundTokenizer:
    """The tokenizer, or why there is none.

    Args:
        vocab_size: rows of the embedding.

    Raises:
        UserError: it has more ids than the embedding has rows.
        IntegrityError: it is damaged.
    """
    _require_size(folder / LIBRARY, _library_size(folder / LIBRARY), vocab_size)
    is_ours = (folder / OURS).is_dir()
    if is_ours:
        found: Tokenizer | str = Tokenizer.load(folder / OURS)
    elif (folder / SENTENCEPIECE).is_file():
        found = _sentencepiece(folder / SENTENCEPIECE)
    elif (folder / LIBRARY).is_file():
        found = f"{LIBRARY} is of Hugging Face's own kind, and ours are made of a {SENTENCEPIECE}"
    else:
        found = f"{folder} holds none"
    if isinstance(found, Tokenizer):
        path = folder / (OURS if is_ours else SENTENCEPIECE)
        why = _misfit(path, found, vocab_size) or _difference(path, found, folder / LIBRARY)
        if why is None:
            return FoundTokenizer(found, is_ours)
        found = why
    return FoundTokenizer(why=found, files=_checksums(folder))


def _misfit(path: Path, tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """Why the number of ids does not fit the model, if it does not."""
    ids = tokenizer.vocab_size
    _require_size(path, ids, vocab_size)
    if ids < vocab_size:
        return (
            f"{path} has {ids:,} ids and the embedding {vocab_size:,} rows, some of which stand for no text; "
            f"model.resize_token_embeddings({ids}) of transformers drops them"
        )
    return None


def _difference(path: Path, tokenizer: Tokenizer, library: Path) -> str | None:
    """A text, if any, that does not come back, or that another reader of the same files cuts differently."""
    others: dict[str, Encode] = {}
    if path.name == SENTENCEPIECE:
        others["sentencepiece"] = _encode_by_sentencepiece(tokenizer)
    if library.is_file():
        others[str(library)] = _encode_by_library(library)
    for text in trial_texts(_pieces(tokenizer)):
        ids = tokenizer.encode(text)
        if tokenizer.decode_bytes(ids) != text.encode():
            return f"{path} does not give every text back byte for byte, as {text[:40]!r}"
        if path.name == SENTENCEPIECE and SPACE_SYMBOL in text:
            continue  # sentencepiece reads it as a space, ours spells it by its bytes
        for name, encode in others.items():
            if (theirs := encode(text)) != ids:
                at = next((i for i, pair in enumerate(zip(ids, theirs, strict=False)) if len({*pair}) > 1), 0)
                return (
                    f"ours would make other tokens of a text than {name}, as {ids[at : at + 4]} for "
                    f"{theirs[at : at + 4]} from token {at} on of {text[:40]!r}"
                )
    return None


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """Names of all special pieces, and some thousand others."""
    if not tokenizer.model:
        return []
    pieces = _description(tokenizer.model).pieces
    special = [piece.piece for piece in pieces if piece.type != piece.NORMAL]
    others = [piece.piece.replace(SPACE_SYMBOL, " ") for piece in pieces if piece.type == piece.NORMAL]
    return special + others[:: max(1, len(others) // PIECES)]


def _encode_by_sentencepiece(tokenizer: Tokenizer) -> Encode:
    import sentencepiece

    encode: Encode = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode
    return encode


def _encode_by_library(path: Path) -> Encode:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_file(str(path))
    except Exception as error:  # a damaged file may raise anything in the library
        raise IntegrityError(f"{path}: is no tokenizer of Hugging Face's library: {error}") from None
    library.encode_special_tokens = True  # a text that spells a special token is a text
    library.no_truncation()
    library.no_padding()
    return lambda text: list(library.encode(text, add_special_tokens=False).ids)


def _sentencepiece(path: Path) -> Tokenizer | str:
    """The tokenizer of a sentencepiece model, or why it cannot be one of ours."""
    import sentencepiece

    try:
        model = read_bytes(path, LARGEST_FILE)
        sentencepiece.SentencePieceProcessor(model_proto=model)  # raises if the model is damaged
        description = _description(model)
        if changes := _changes(description.normalizer_spec):
            return f"{path} {changes}, and ours keep every text as it is"
        name: str = description.trainer_spec.ModelType.Name(description.trainer_spec.model_type)
        return Tokenizer(name.lower(), model)
    except (RuntimeError, ValueError, OSError) as error:
        return f"{path}: {printable(str(error))}"


def _description(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def _changes(normalizer: Any) -> str | None:
    """What a model does to texts before it encodes them, if anything."""
    if normalizer.precompiled_charsmap:
        return f"replaces characters by others ({normalizer.name or 'normalisation'})"
    if normalizer.remove_extra_whitespaces:
        return "drops spaces (remove_extra_whitespaces)"
    if normalizer.add_dummy_prefix:
        return "puts a space before every text (add_dummy_prefix)"
    return None


def _library_size(path: Path) -> int:
    """Ids in a `tokenizer.json`; 0 if there is no file, or no vocabulary of a known kind in it."""
    try:
        values = read_json(path, LARGEST_FILE)
        entries = values["model"].get("vocab", {})
        ids = entries.values() if isinstance(entries, dict) else range(len(entries))
        more = (token["id"] for token in values.get("added_tokens", ()))
        return 1 + max(map(natural, (*ids, *more)), default=-1)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{path}: is no tokenizer of Hugging Face's library") from None


def _require_size(path: Path, ids: int, vocab_size: int) -> None:
    """A model may have more rows than its tokenizer has ids, but not fewer."""
    if ids > vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {ids:,} ids and the embedding {vocab_size:,} rows: it is of another "
            "model"
        )


def _checksums(folder: Path) -> dict[str, str]:
    """Hashes of a tokenizer's files, so that the same tokenizer can be recognised."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in FILES
        if (folder / name).is_file()
    }
