"""The tokenizer of a transformers folder as one of ours, where it can be one.

Ours give every text back byte for byte: a sentencepiece model that normalises, or lacks pieces for bytes, is
left behind, and so is everything that has no sentencepiece model.
"""

import json
from pathlib import Path

from data_tools.errors import IntegrityError
from data_tools.tokenizer import Tokenizer
from pretrain.errors import UserError
from pretrain.hf.tokenizer import OURS

SENTENCEPIECE = "tokenizer.model"
LIBRARY = "tokenizer.json"
TEXT = " a  b\n\tc \u00e9\u6f22\U0001f600 d"


def find_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none.

    Args:
        folder: of transformers.
        vocab_size: rows of the embedding.

    Raises:
        UserError: it has another number of ids than the embedding has rows.
    """
    _require_size(folder / LIBRARY, _library_size(folder / LIBRARY), vocab_size)
    if (folder / OURS).is_dir():
        tokenizer = Tokenizer.load(folder / OURS)
        if tokenizer.vocab_size != vocab_size:
            raise UserError(_mismatch(folder / OURS, tokenizer.vocab_size, vocab_size))
        return tokenizer, ""
    if (folder / SENTENCEPIECE).is_file():
        return _sentencepiece(folder / SENTENCEPIECE, vocab_size)
    if (folder / LIBRARY).is_file():
        return (
            None,
            f"{LIBRARY} is of Hugging Face's own kind, and ours are made of a {SENTENCEPIECE}",
        )
    return None, f"{folder} holds none"


def _sentencepiece(path: Path, vocab_size: int) -> tuple[Tokenizer | None, str]:
    import sentencepiece

    try:
        model = path.read_bytes()
        sentencepiece.SentencePieceProcessor(model_proto=model)  # refuses what is damaged
        found = Tokenizer(_model_type(model), model)
    except (RuntimeError, ValueError, OSError) as error:
        return None, f"{path}: {error}"
    if found.vocab_size != vocab_size:
        raise UserError(_mismatch(path, found.vocab_size, vocab_size))
    if found.decode(found.encode(TEXT)) != TEXT:
        return None, f"{path} does not give every text back byte for byte, as {TEXT[:8]!r}"
    return found, ""


def _model_type(model: bytes) -> str:
    from sentencepiece import sentencepiece_model_pb2

    description = sentencepiece_model_pb2.ModelProto.FromString(model).trainer_spec
    name: str = description.ModelType.Name(description.model_type)
    return name.lower()


def _library_size(path: Path) -> int:
    """Ids in a `tokenizer.json`; 0 where it has none of a kind that is known."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        entries = values["model"].get("vocab", {})
        ids = entries.values() if isinstance(entries, dict) else range(len(entries))
        return 1 + max([*ids, *(token["id"] for token in values.get("added_tokens", ()))], default=-1)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{path}: is no tokenizer of Hugging Face's library") from None


def _require_size(path: Path, ids: int, vocab_size: int) -> None:
    """A model may have more rows than its tokenizer has ids, but not fewer."""
    if ids > vocab_size:
        raise UserError(_mismatch(path, ids, vocab_size))


def _mismatch(path: Path, ids: int, vocab_size: int) -> str:
    return (
        f"{path}: the tokenizer has {ids:,} ids and the embedding {vocab_size:,} rows: it is of another model"
    )
