"""What every kind of tokenizer is: text to ids, and the bytes that each id stands for."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.segments import stretches

Ids = np.ndarray[Any, np.dtype[np.int32]]
Offsets = np.ndarray[Any, np.dtype[np.int64]]
BERT_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
SPACE_SYMBOL = "\u2581"
"""What sentencepiece writes for a space."""
MOST_ROWS = 1 << 24
PIECES = 1000
"""About so many pieces of a vocabulary are tried as texts."""


@dataclass(frozen=True)
class BertIds:
    """The ids of the pieces that BERT needs beside those of text (Devlin et al. 2019, section 3)."""

    pad: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True)
class Roles:
    """What ids that are no text are for.

    eod: ends a document. begin: put before each document, such as the <|begin_of_text|> of Llama 3.
    special: every id that no text is encoded into, by its name.
    """

    eod: int
    begin: tuple[int, ...]
    bert: BertIds | None
    special: Mapping[str, int]


class Codec(ABC):
    """One kind of tokenizer, with what was read from its files."""

    kind: str
    pieces: Sequence[bytes]
    """The bytes of each id; empty for ids that are no text."""
    roles: Roles
    loss: str = ""
    """A text that does not come back byte for byte, for messages; empty if all do."""
    drops_space: bool = False
    """Whether a text's first piece begins with a space that is not part of the text."""

    @property
    @abstractmethod
    def files(self) -> Mapping[str, bytes]:
        """The files that it was read from, by name, as they were."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256; equal ones give equal ids to every text."""

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids of one of the `segments` of a text. Raises UnicodeEncodeError for lone surrogates."""

    @abstractmethod
    def segments(self, parts: Iterable[str]) -> Iterator[str]:
        """A text, which arrives in parts, cut where the ids of both sides are those of the whole."""

    def token_starts(self, text: str, ids: Ids) -> Offsets:
        """The byte of the text at which each of its ids begins, ascending, shape [tokens]."""
        lengths = np.array([len(self.pieces[value]) for value in ids], np.int64)
        return np.concatenate([[0], np.cumsum(lengths)[:-1]])


@dataclass(frozen=True)
class Settings:
    """What is known of a tokenizer beside its files.

    eod: the id that ends a document. encoding: whose pattern a tiktoken file is for. rows: ids, with
    unused ones at the end, where the model's embedding has more rows than the files have ids. loss: as in
    `Codec`. cuts: whether a text may be cut before a space between two letters. None: not yet found out.
    """

    eod: int | None = None
    encoding: str | None = None
    rows: int | None = None
    loss: str | None = None
    cuts: bool | None = None


MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file of another structure may raise."""


class ForeignCodec(Codec):
    """A tokenizer that was made elsewhere, encoded by its own library."""

    ENDING: ClassVar[str]
    """Of the name of the file that defines it."""
    MAIN: ClassVar[str | None] = None
    """Name of that file in a folder, and in what is written; None: any with the ending."""
    TAKES_ENCODING: ClassVar[bool] = False
    BESIDE: ClassVar[tuple[str, ...]] = ()
    """Names of other files in its folder, which are kept with it."""
    HINTS: ClassVar[tuple[str, ...]] = ()
    """Names of files in its folder that are read when it is first opened, and not kept."""

    def __init__(
        self, name: str, files: Mapping[str, bytes], settings: Settings, end_of_document: str | None = None
    ) -> None:
        """Read a tokenizer.

        Args:
            name: the file that defines it, among the files.
            files: their content.
            settings: what was found out before.
            end_of_document: name of the special token that ends a document, where the files do not say it.

        Raises:
            UserError: it cannot be used; says why, without naming the path.
            *MALFORMED: it is not what its library writes.
        """
        self.name = name
        self._files = {each: content for each, content in files.items() if each not in self.HINTS}
        self.settings = settings
        self.pieces = self.read(files[name])
        self.roles = self.roles_from(files, end_of_document if settings.eod is None else settings.eod)
        self.settings = replace(settings, eod=self.roles.eod)
        if settings.rows is not None:
            if settings.rows > MOST_ROWS:
                raise UserError(f"{settings.rows:,} ids are more than the {MOST_ROWS:,} allowed")
            if len(self.pieces) > settings.rows:
                raise UserError(
                    f"the tokenizer has {len(self.pieces):,} ids and the embedding {settings.rows:,} rows: "
                    "it is of another model"
                )
            self.pieces = [*self.pieces, *[b""] * (settings.rows - len(self.pieces))]
        if settings.loss is not None:
            self.loss = settings.loss

    @classmethod
    def in_folder(cls, name: str) -> bool:
        """Whether a file of a folder with this name defines a tokenizer of this kind."""
        return name == cls.MAIN if cls.MAIN else name.endswith(cls.ENDING)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self._files, self.settings)

    @abstractmethod
    def read(self, main: bytes) -> list[bytes]:
        """The pieces of the file that defines it; sets up what other methods need, and `drops_space`."""

    @abstractmethod
    def roles_from(self, files: Mapping[str, bytes], eod: str | int | None) -> Roles:
        """The roles as these files give them; `eod` is the name or the id that ends a document, if it is
        known."""

    def names(self) -> list[str]:
        """Texts to try: how the vocabulary spells special ids, pieces of several words, and some thousand
        others."""
        others = [piece.decode("utf-8", "ignore") for piece in self.pieces if piece]
        inner = [text for text in others if " " in text.strip()]
        return [*self.roles.special, *inner, *others[:: max(1, len(others) // PIECES)]]

    def segments(self, parts: Iterable[str]) -> Iterator[str]:
        return stretches(parts, cuts=bool(self.settings.cuts))

    @property
    def files(self) -> Mapping[str, bytes]:
        return self._files

    @property
    def fingerprint(self) -> str:
        """The hash of the file that defines it; with what was chosen or read elsewhere, if that differs."""
        digest = hashlib.sha256(self._files[self.name]).hexdigest()
        settings = self.settings
        chosen = {"rows": settings.rows, "encoding": settings.encoding, **asdict(self.roles)}
        try:
            roles = self.roles_from({self.name: self._files[self.name]}, None)
            if chosen == {"rows": None, "encoding": None, **asdict(roles)}:
                return digest
        except UserError:
            pass  # the file alone does not say what ends a document
        return hashlib.sha256(json.dumps({"file": digest, **chosen}, sort_keys=True).encode()).hexdigest()

    def found(self, loss: str, cuts: bool) -> None:
        """Keep what trials have found out."""
        self.loss, self.settings = loss, replace(self.settings, loss=loss, cuts=cuts)
