"""The arguments of `pretrain data clean`."""

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data_tools.errors import UserError
from data_tools.records import LINE_BYTES
from data_tools.sources import is_remote

QUALITY = ("c4", "gopher", "repetition", "fineweb")
"""In the order in which they are applied: the others judge what c4 leaves of a text."""
LIBRARIES = ("datatrove", "py3langid", "sentencex", "tokenizers", "scipy")
MOST_HASHES = 1024


@dataclass(frozen=True)
class CleanOptions:
    """What is removed, and why. `max_bad_records` 0 stops at the first one; `workers` 0 is one per core.

    quality: names of `QUALITY`, in any order. min_line_words, min_sentences: of c4.
    language: ISO 639-1 code; None: any. language_share: its minimum probability.
    bands, rows: of MinHash; a pair of similarity s is found with probability 1 - (1 - s^rows)^bands.
    """

    inputs: tuple[str, ...]
    output: str
    workers: int = 0
    max_bad_records: int = 0
    text_key: str = "text"
    document: str = "file"
    line_bytes: int = LINE_BYTES
    input_format: str = "auto"
    quality: tuple[str, ...] = ("gopher", "repetition")
    min_words: int = 50
    max_words: int = 100_000
    min_line_words: int = 5
    min_sentences: int = 3
    language: str | None = None
    language_share: float = 0.65
    exact: bool = True
    near: bool = True
    bands: int = 14
    rows: int = 8
    restart: bool = False
    allow_left_out: bool = False

    @property
    def rules(self) -> tuple[str, ...]:
        """The names in `quality`, in the order in which they are applied."""
        return tuple(name for name in QUALITY if name in self.quality)

    def plan(self) -> dict[str, Any]:
        """Everything that decides which documents are kept, including the versions of the libraries that
        judge them."""
        without = ("inputs", "output", "workers", "max_bad_records", "restart", "allow_left_out")
        kept = {key: value for key, value in asdict(self).items() if key not in without}
        return {
            **kept,
            "quality": list(self.rules),
            "libraries": {name: version(name) for name in LIBRARIES},
        }


def check_options(options: CleanOptions) -> None:
    """Raise UserError for invalid options, for options without effect, and for a missing library."""
    if is_remote(options.output):
        raise UserError(f"--output {options.output}: must be a local directory, on a disk that all nodes see")
    if not 0 < options.min_words <= options.max_words:
        raise UserError(
            f"--min-words {options.min_words}, --max-words {options.max_words}: 1 or more, the least first"
        )
    words = (options.min_words, options.max_words) != (CleanOptions.min_words, CleanOptions.max_words)
    if words and "gopher" not in options.quality:
        raise UserError("--min-words, --max-words: have no effect without --quality gopher")
    lines = (options.min_line_words, options.min_sentences)
    if min(lines) < 1:
        raise UserError(
            f"--min-line-words {options.min_line_words}, --min-sentences {options.min_sentences}: 1 or more"
        )
    if lines != (CleanOptions.min_line_words, CleanOptions.min_sentences) and "c4" not in options.quality:
        raise UserError("--min-line-words, --min-sentences: have no effect without --quality c4")
    if not 0 < options.language_share <= 1:
        raise UserError(f"--language-share {options.language_share}: above 0, up to 1")
    if options.language is None and options.language_share != CleanOptions.language_share:
        raise UserError(f"--language-share {options.language_share}: has no effect without --language")
    if not (options.bands > 0 and options.rows > 0 and options.bands * options.rows <= MOST_HASHES):
        raise UserError(
            f"--bands {options.bands} --rows {options.rows}: at least 1 each, up to {MOST_HASHES} hashes"
        )
    if not options.near and (options.bands, options.rows) != (CleanOptions.bands, CleanOptions.rows):
        raise UserError("--bands, --rows: have no effect with --no-near")
    for name in LIBRARIES:
        try:
            version(name)
        except PackageNotFoundError:
            raise UserError(f"pretrain data clean: needs {name}; pip install 'pretrain[clean]'") from None
