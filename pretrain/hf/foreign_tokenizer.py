"""The tokenizer of a transformers folder, of whatever kind it is."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.errors import IntegrityError
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.registry import KINDS
from data_tools.tokenizers.trial_texts import trial_texts
from pretrain.errors import UserError
from pretrain.hf.tokenizer import OURS

LIBRARY = "tokenizer.json"
LEGACY = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
"""Files of a tokenizer that transformers converts when it loads it."""


@dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer that is imported, or why none is.

    is_ours: it was written by `pretrain export`. why: the reason why there is none. notes: what its user
    should know. files: those that stay behind, with sha256.
    """

    tokenizer: Tokenizer | None = None
    is_ours: bool = False
    why: str = ""
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def find_tokenizer(folder: Path, vocab_size: int) -> FoundTokenizer:
    """The tokenizer, or why there is none.

    Args:
        vocab_size: rows of the embedding.

    Raises:
        UserError: it cannot be used, or has more ids than the embedding has rows.
        IntegrityError: it is damaged.
    """
    if (folder / OURS).is_dir():
        found = Tokenizer.load(folder / OURS)
        path = folder / OURS
        _require_rows(path, found.vocab_size, vocab_size)
        why = _difference(folder, found)
        if found.vocab_size < vocab_size:
            why = (
                f"{path} has {found.vocab_size:,} ids and the embedding {vocab_size:,} rows, some of which "
                f"stand for no text; model.resize_token_embeddings({found.vocab_size}) of transformers "
                "drops them"
            )
        return FoundTokenizer(why=why) if why else FoundTokenizer(found, is_ours=True)
    if not any(kind.in_folder(each.name) for kind in KINDS for each in folder.iterdir()):
        files = {name: _sha256(folder / name) for name in LEGACY if (folder / name).is_file()}
        why = f"{folder} holds none"
        if files:
            why = (
                f"{folder} holds {', '.join(files)} and no {LIBRARY}, which AutoTokenizer.from_pretrained "
                "and save_pretrained of transformers make of them"
            )
        return FoundTokenizer(why=why, files=files)
    try:
        found = Tokenizer.load(folder, rows=vocab_size)
    except IntegrityError:
        raise
    except UserError as error:
        raise UserError(f"{error}; without the file, the model is imported without tokenizer") from None
    return FoundTokenizer(found, notes=tuple(_notes(found)))


def _notes(tokenizer: Tokenizer) -> list[str]:
    unused = int((tokenizer.piece_lengths == 0).sum()) - len(set(tokenizer.special.values()))
    notes = [f"{tokenizer.model_type} tokenizer: {tokenizer.roles}"]
    if unused > 0:
        notes.append(f"{unused:,} rows of the embedding stand for no text")
    if tokenizer.loss:
        notes.append(f"the tokenizer changes texts: {tokenizer.loss}")
    return notes


def _difference(folder: Path, tokenizer: Tokenizer) -> str:
    """How a folder's `tokenizer.json` differs from the tokenizer that `pretrain export` wrote beside it."""
    library = folder / LIBRARY
    if not library.is_file():
        return ""
    if not tokenizer.is_ours:
        same = tokenizer.codec.files.get(LIBRARY) in (None, library.read_bytes())
        return "" if same else f"{library} is not the one in {folder / OURS}"
    other = Tokenizer.load(library)
    for text in trial_texts([]):
        ours, theirs = tokenizer.encode(text), other.encode(text)
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), 0)
            return (
                f"ours would make other tokens of a text than {library}, as {ours[at : at + 4]} for "
                f"{theirs[at : at + 4]} from token {at} on of {text[:40]!r}"
            )
    return ""


def _require_rows(path: Path, ids: int, rows: int) -> None:
    """A model may have more rows than its tokenizer has ids, but not fewer."""
    if ids > rows:
        raise UserError(
            f"{path}: the tokenizer has {ids:,} ids and the embedding {rows:,} rows: it is of another model"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
