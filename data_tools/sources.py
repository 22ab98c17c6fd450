"""Finds and opens the input files: paths, folders, globs and fsspec URLs; plain, .gz or .zst.

The list is in a fixed order (arguments as given, each expanded in sorted order), because the order of the
files is the order of the documents in the shards. Hidden files of a folder are left out, and so are files
with unknown endings unless they hold JSON lines.
"""

import contextlib
import glob
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from data_tools.errors import UserError
from data_tools.left_out import HIDDEN, LeftOut, check_left_out, ending_of, is_hidden, together
from data_tools.remote import RemoteInput, filesystem_of

TEXT_FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}
TOKENS, BIN = "megatron", ".bin"
"""The format and the ending of Megatron's token files."""
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
READ_CHUNK = 1 << 20
SNIFFED = 1 << 16
"""Bytes of a file's first line that are examined."""
LONG_OBJECT = re.compile(rb'\s*\{\s*"')
IN_FOLDERS = "in folders that a pattern matches"
REPORTS = frozenset({"build.json", "report.json"})
"""What `pretrain data clean` writes beside its texts."""
ZSTD_CHUNK = 1 << 10
"""Compressed bytes to decompress at once: 4 of them can stand for 128 KiB, and so these for 32 MiB."""


@dataclass(frozen=True)
class InputFile:
    """One file: `url` is a local path or an fsspec URL, `marker` changes when the file does."""

    url: str
    size: int
    format: str
    compression: str | None
    marker: str


@dataclass(frozen=True)
class Inputs:
    """The files to read, in order, and the files in input folders that are not read."""

    files: tuple[InputFile, ...]
    left_out: LeftOut
    of_folder: bool = False
    """Whether they are all files of one folder, which was named."""


def is_remote(url: str) -> bool:
    return "://" in url


def find_inputs(
    arguments: list[str],
    input_format: str = "auto",
    allow_left_out: bool = False,
    *,
    tokens: bool = False,
) -> Inputs:
    """Expand the `--input` arguments of a command that reads text.

    `input_format` other than "auto" reads every file as that format whatever its ending. Raises UserError for
    an argument that matches nothing, an unknown ending, a file that is given twice or not readable, and where
    more bytes would be left out than read, unless `allow_left_out`. With `tokens`, a `.bin` file with its
    `.idx` beside it holds tokens of Megatron.
    """
    known = f"{', '.join(TEXT_FORMATS)} (+ .gz, .zst)"

    def kind_of(url: str) -> tuple[str | None, str | None]:
        if tokens and input_format == "auto" and os.path.isfile(index_of(url)):
            return TOKENS, None
        return _format(url, input_format)

    found = [
        find_files(
            argument,
            kind_of,
            f"known are {known}, and JSON lines under any; or --input-format",
            f"{known}; --input-format txt reads any",
        )
        for argument in arguments
    ]
    files = tuple(file for inputs in found for file in inputs.files)
    check_readable_once(files)
    left_out = together(inputs.left_out for inputs in found)
    check_left_out(left_out, sum(file.size for file in files), allow_left_out)
    return Inputs(files, left_out)


KindOf = Callable[[str], tuple[str | None, str | None]]
"""From a url to its format and its compression; format None: it is not read."""


def find_files(argument: str, kind_of: KindOf, known: str, endings: str) -> Inputs:
    """Expand one `--input` argument.

    known, endings: used in the messages for a file that cannot be read and for a folder with nothing to read.
    Raises UserError for these and for an argument that matches nothing.
    """
    files: list[InputFile] = []
    found, is_folder, left_out = _expand_remote(argument) if is_remote(argument) else _expand_local(argument)
    if not found and not left_out.files:
        raise UserError(f"--input {argument}: nothing there matches")
    urls = {url for url, _, _ in found}
    for url, size, marker in found:
        kind, compression = kind_of(url)
        if kind is not None:
            if kind == TOKENS:
                marker += f"|{os.stat(index_of(url)).st_mtime_ns}"
            files.append(InputFile(url, size, kind, compression, marker))
        elif not is_folder:
            raise UserError(f"--input {url}: unknown ending; {known}")
        elif not _is_report(url, urls) and url not in map(index_of, urls):
            left_out.add(ending_of(url), size)
    if not files:
        rest = f"; left out: {left_out}" if left_out.files else ""
        raise UserError(f"--input {argument}: no file ends in {endings}{rest}")
    return Inputs(tuple(files), left_out, is_folder)


def index_of(url: str) -> str:
    """The `.idx` file of a `.bin` file; empty for another."""
    return f"{url.removesuffix(BIN)}.idx" if url.endswith(BIN) else ""


def _is_report(url: str, urls: set[str]) -> bool:
    folder, _, name = url.rpartition("/")
    return name in REPORTS and all(f"{folder}/{other}" in urls for other in REPORTS)


def absolute(url: str) -> str:
    """An absolute path for a local file; a URL unchanged."""
    return url if is_remote(url) else os.path.abspath(os.path.expanduser(url))


def inputs_digest(files: Sequence[InputFile]) -> str:
    """A sha256 that changes when a file does, or the order of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(json.dumps(asdict(replace(file, url=absolute(file.url)))).encode())
    return digest.hexdigest()


def plan_of_inputs(arguments: Sequence[str], files: Sequence[InputFile]) -> dict[str, Any]:
    """What must be equal about the input for a build to resume."""
    return {
        "inputs": [absolute(value) for value in arguments],
        "files": len(files),
        "file_bytes": sum(file.size for file in files),
        "inputs_sha256": inputs_digest(files),
    }


def refuse_inside_output(files: Sequence[InputFile], output: str) -> None:
    """Raise UserError for an input that lies in the output directory."""
    folder = Path(output).resolve()
    for file in files:
        if not is_remote(file.url) and folder in Path(file.url).resolve().parents:
            raise UserError(f"--input {file.url}: lies inside --output {output}")


def check_readable_once(files: Sequence[InputFile]) -> None:
    """Raise UserError for a file that is given twice or may not be read."""
    seen: set[str] = set()
    for file in files:
        name = file.url if is_remote(file.url) else os.path.abspath(file.url)
        if name in seen:
            raise UserError(
                f"--input {file.url}: given twice; to weigh a source use data.train weights when training"
            )
        seen.add(name)
        if not is_remote(file.url) and not os.access(file.url, os.R_OK):
            raise UserError(f"--input {file.url}: no permission to read it")


def _format(url: str, input_format: str) -> tuple[str | None, str | None]:
    stem, ending = os.path.splitext(url)
    compression = COMPRESSIONS.get(ending.lower())
    if compression is not None:
        ending = os.path.splitext(stem)[1]
    kind = TEXT_FORMATS.get(ending.lower()) if input_format == "auto" else input_format
    if kind is None and _holds_json_lines(url, compression, ending.lower()):
        kind = "jsonl"
    if kind == "parquet" and compression is not None:
        raise UserError(
            f"--input {url}: parquet compresses its own columns; a compressed parquet file is not read"
        )
    return kind, compression


def _holds_json_lines(url: str, compression: str | None, ending: str) -> bool:
    """Whether the first non-blank line is an object, as in dumps named .json.gz or part-00000.

    A .json that cannot be read counts as one: whoever reads it reports what is wrong with it.
    """
    import zstandard

    try:
        with open_text_bytes(InputFile(url, 0, "jsonl", compression, "")) as stream:
            head = stream.read(SNIFFED)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError, UserError):
        return ending in (".json", ".ndjson")
    line, end, _ = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not end and len(head) == SNIFFED:
        return LONG_OBJECT.match(line) is not None
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


Found = tuple[list[tuple[str, int, str]], bool, LeftOut]
"""Url, size and marker of each file, whether they belong to a folder, and what is left out."""


def _expand_local(argument: str) -> Found:
    path = os.path.expanduser(argument)
    left_out = LeftOut()
    if os.path.isdir(path):
        return [_describe(name) for name in sorted(_walk(path, left_out))], True, left_out
    if os.path.lexists(path):
        return [_describe(path)], False, left_out
    matches = sorted(glob.glob(_pattern(path), recursive=True))
    names = [name for name in matches if not os.path.isdir(name)]
    matched = {os.path.normpath(name) for name in names}
    for folder in (name for name in matches if os.path.isdir(name)):
        for name in _walk(folder, LeftOut()):
            if os.path.normpath(name) not in matched:
                matched.add(os.path.normpath(name))
                left_out.add(IN_FOLDERS, _stored_size(name))
    return [_describe(name) for name in names], False, left_out


def _pattern(path: str) -> str:
    """The path as a glob, in which a folder with brackets in its literal name, such as data[1], is itself."""
    folder, rest = os.path.dirname(path), os.path.basename(path)
    while folder not in ("", os.sep) and not os.path.isdir(folder):
        folder, last = os.path.dirname(folder), os.path.basename(folder)
        rest = os.path.join(last, rest)
    return os.path.join(glob.escape(folder), rest)


def _walk(top: str, left_out: LeftOut) -> Iterator[str]:
    """The files below a folder; hidden files, and all files in hidden folders, go to `left_out`."""
    visited = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up the tree
            folders.clear()
            continue
        visited.add(real)
        for name in filter(is_hidden, folders):
            for inner, _, inside in os.walk(os.path.join(folder, name)):
                for file in inside:
                    left_out.add(HIDDEN, _stored_size(os.path.join(inner, file)))
        for name in filter(is_hidden, names):
            left_out.add(HIDDEN, _stored_size(os.path.join(folder, name)))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (os.path.join(folder, name) for name in names if not is_hidden(name))


def _stored_size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # removed meanwhile
        return 0


def _refuse(error: OSError) -> None:
    raise UserError(f"--input {error.filename}: cannot be read: {error.strerror}")


def _describe(path: str) -> tuple[str, int, str]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"--input {path}: cannot be read: {error.strerror}") from None
    if not Path(path).is_file():
        raise UserError(f"--input {path}: not a plain file")
    return path, found.st_size, str(found.st_mtime_ns)


def _expand_remote(argument: str) -> Found:
    protocol = argument.split("://", 1)[0]
    try:
        filesystem, path = filesystem_of(argument)
        if filesystem.isdir(path):
            found, is_folder = filesystem.find(path, detail=True), True
        elif filesystem.exists(path):
            found, is_folder = {path: filesystem.info(path)}, False
        elif any(mark in path for mark in "*?["):
            found, is_folder = filesystem.glob(path, detail=True), False
        else:
            return [], False, LeftOut()
    except UserError as error:
        raise UserError(f"--input {error}") from None
    except Exception as error:  # every fsspec backend has its own exception types
        raise UserError(f"--input {argument}: {type(error).__name__}: {error}") from None
    files, left_out = [], LeftOut()
    for name in sorted(found):
        info = found[name]
        if info.get("type") == "directory":
            continue
        if is_hidden(_below(path, name, is_folder)):
            left_out.add(HIDDEN, int(info.get("size") or 0))
            continue
        marks = [
            str(info[key]) for key in ("mtime", "created", "ETag", "LastModified", "etag") if info.get(key)
        ]
        url = name if is_remote(name) else f"{protocol}://{name}"
        files.append((url, int(info.get("size") or 0), "|".join(marks[:1])))
    return files, is_folder, left_out


def _below(path: str, name: str, is_folder: bool) -> str:
    """The path of a file relative to its folder, or to that of a pattern; empty where the argument names the
    file."""
    if is_folder:
        return name.removeprefix(path.rstrip("/") + "/")
    before = re.split(r"[*?\[]", path)[0]
    if name == path or "/." in path[len(before) - 1 :]:
        return ""
    return name.removeprefix(before.rpartition("/")[0] + "/")


@contextlib.contextmanager
def open_raw(file: InputFile) -> Iterator[IO[bytes]]:
    """Open the file as stored. Raises UserError if it cannot be opened."""
    if is_remote(file.url):
        handle: IO[bytes] = io.BufferedReader(RemoteInput(file.url), READ_CHUNK)
    else:
        try:
            handle = open(file.url, "rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise UserError(f"{file.url}: cannot be opened: {error.strerror}") from None
    with handle:
        yield handle


@contextlib.contextmanager
def open_text_bytes(file: InputFile) -> Iterator[IO[bytes]]:
    """Open the file decompressed.

    Damaged compression shows as EOFError, OSError or zlib/zstd errors while reading.
    """
    with open_raw(file) as raw:
        if file.compression == "gz":
            with gzip.open(raw, "rb") as unpacked:
                yield cast("IO[bytes]", unpacked)
        elif file.compression == "zst":
            yield cast("IO[bytes]", io.BufferedReader(_ZstdFile(raw), READ_CHUNK))
        else:
            yield raw


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of one or more zstd frames.

    Unlike zstandard's own reader, it notices a truncated frame.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        # The largest window that zstd allows: Reddit's dumps are made with `--long=31`, which needs 2 GiB.
        self._new_frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input:
                self._input = self._raw.read(ZSTD_CHUNK)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("compressed file ended before the end of its last frame")
                    return 0
            if self._frame is None:
                self._frame = self._new_frame()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count
