"""Reads samples of a WebDataset tar: members that share a key, one image and its class in `KEY.cls`.

Every byte is accounted for: a member is read, counted as left out, or part of a bad record. This includes
what follows an end mark, as in concatenated tars. As in the stock library, a key ends at the first dot of the
file's name, folders are not members, and `__x__`, names without an ending and `._x` are not samples. Unlike
the stock library, this reads a hard link as what it links to: its image would be lost.
"""

import bz2
import contextlib
import gzip
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any, NamedTuple

from data_tools.bad_records import BadRecord, unreadable
from data_tools.images.labels import NO_CLASS
from data_tools.images.pixels import ENDINGS
from data_tools.images.sources import MAX_BYTES, ImageFile, Picture, too_large
from data_tools.left_out import BESIDE, HIDDEN, METADATA, LeftOut, ending_of, is_hidden
from data_tools.sources import READ_CHUNK, open_raw
from data_tools.tar import TAR_BLOCK

COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""Openers by the first bytes of a compressed file."""
META = re.compile(r"__[^/]*__($|/)")
LARGEST_CLASS = 1024
SHOWN = 10
DAMAGED = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    RecursionError,  # a header of a long name that itself has a long name
    zlib.error,
    lzma.LZMAError,
)


class Member(NamedTuple):
    """A file in a tar; `plain` False: it has no data of its own, like a symbolic link."""

    name: str
    offset: int
    size: int
    plain: bool

    @property
    def key(self) -> str:
        """The path up to the first dot of the file's name."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def ending(self) -> str:
        """The rest of the file's name, after that dot."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()

    @property
    def is_picture(self) -> bool:
        """Whether it is the image of its key."""
        return f".{self.ending}" in ENDINGS


@dataclass
class Contents:
    """The members of a tar that may be parts of samples, what was left out, and what is wrong after them.

    whole: whether all members of the tar were found; False: the last one's sample may be incomplete.
    """

    members: list[Member] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    fault: str = ""
    whole: bool = True


def read_samples(file: ImageFile, with_labels: bool, left_out: LeftOut) -> Iterator[Picture | BadRecord]:
    """Samples in the order of the tar; what is left out is counted in `left_out`.

    Raises UserError for a file of which nothing can be read.
    """
    contents, last = _scan(file), ""
    for kind, (count, size) in contents.left_out.kinds.items():
        left_out.add(kind, size, count)
    samples, runs = _samples(contents)
    try:
        with _open(file) as stream:
            for key, members in samples.items():
                record = _sample(file, stream, members, runs[key], with_labels, left_out)
                if record is not None:
                    yield record
                    last = key
    except DAMAGED as error:
        contents.fault = f"cannot be read to its end: {error}"
    if contents.fault and not last:
        raise unreadable(BadRecord(file.url, "", contents.fault))
    if contents.fault:
        yield BadRecord(file.url, f"after sample {last}", contents.fault)


def read_tar_labels(file: ImageFile) -> set[str]:
    """The classes in a tar; of a damaged one, as many as can be read."""
    labels = set()
    with contextlib.suppress(*DAMAGED), _open(file) as stream:
        for member in _scan(file).members:
            if member.ending == "cls" and (label := _text(stream, member)) not in ("", NO_CLASS):
                labels.add(label)
    return labels


@contextlib.contextmanager
def _open(file: ImageFile) -> Iterator[IO[bytes]]:
    """The tar, decompressed if it is compressed as a whole."""
    with open_raw(file) as stream:
        begin = stream.read(3)
        stream.seek(0)
        unpack = next((opened for magic, opened in COMPRESSED.items() if begin.startswith(magic)), None)
        if unpack is None:
            yield stream
            return
        with unpack(stream, "rb") as unpacked:
            yield unpacked


def _scan(file: ImageFile) -> Contents:
    """Find all members of all tars that are concatenated in a file."""
    contents = Contents()
    files: dict[str, Member] = {}
    try:
        with _open(file) as stream:
            start: int | None = 0
            while start is not None:
                stream.seek(start)
                tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - the stream is what is open
                while (found := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                    _take(found, files, contents)
                start = _behind(stream, tar.offset, contents)
    except DAMAGED as error:
        contents.fault, contents.whole = f"cannot be read to its end: {error}", False
    return contents


def _behind(stream: IO[bytes], offset: int, contents: Contents) -> int | None:
    """The offset of another tar after the end mark at `offset`; None where nothing but zeros follows."""
    stream.seek(offset)
    mark = stream.read(TAR_BLOCK)
    if len(mark) < TAR_BLOCK:
        contents.fault = "the tar has no end mark: it is cut off"
        return None
    if mark.strip(b"\0"):
        contents.fault = f"cannot be read to its end: byte {offset:,} begins no member: it is damaged"
        return None
    while chunk := stream.read(READ_CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return (stream.tell() - len(rest)) // TAR_BLOCK * TAR_BLOCK
    return None


def _take(found: tarfile.TarInfo, files: dict[str, Member], contents: Contents) -> None:
    """Add a member to the members of samples, or to what is left out."""
    name = _plain_name(found.name)
    plain = found.isreg() and not found.issparse()
    member = Member(name, found.offset_data, found.size if found.isreg() else 0, plain)
    if found.islnk() and _plain_name(found.linkname) in files:
        target = files[_plain_name(found.linkname)]
        member = Member(name, target.offset, target.size, True)
    elif plain:
        files[name] = member
    if found.isdir():
        return
    if META.match(name):
        contents.left_out.add(METADATA, found.size)
    elif is_hidden(name):
        contents.left_out.add(HIDDEN, found.size)
    elif not member.ending or name.endswith(f"/.{member.ending}"):
        contents.left_out.add("without an ending", found.size)
    else:
        contents.members.append(member)


def _plain_name(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _samples(contents: Contents) -> tuple[dict[str, list[Member]], Counter[str]]:
    """The members by key, in the order of the keys, and in how many separate runs each key occurs."""
    groups = [(key, list(group)) for key, group in groupby(contents.members, key=lambda member: member.key)]
    if not contents.whole and groups:
        groups.pop()
    samples: dict[str, list[Member]] = {}
    for key, group in groups:
        samples.setdefault(key, []).extend(group)
    return samples, Counter(key for key, _ in groups)


def _sample(
    file: ImageFile,
    stream: IO[bytes],
    members: Sequence[Member],
    runs: int,
    with_labels: bool,
    left_out: LeftOut,
) -> Picture | BadRecord | None:
    """One sample; None if its members are not meant to be one, such as README.txt."""
    pictures = [member for member in members if member.is_picture]
    classes = [member for member in members if member.ending == "cls"]
    others = [member for member in members if not member.is_picture and member.ending != "cls"]
    if not pictures and not classes and not any(_ends_as_picture(member) for member in others):
        for member in others:
            left_out.add(ending_of(member.name), member.size)
        return None
    key, label = members[0].key, None
    if reason := _fault(members, pictures, classes if with_labels else [], runs):
        return BadRecord(file.url, f"sample {key}", reason)
    if with_labels and classes:
        label = _text(stream, classes[0])
        if not label:
            return BadRecord(
                file.url, f"sample {key}", f"{classes[0].name} does not hold the name of a class"
            )
        if label == NO_CLASS:
            reason = f"{classes[0].name} holds {NO_CLASS}, the number of no class"
            return BadRecord(file.url, f"sample {key}", reason)
    for member in others:
        left_out.add(ending_of(member.name) + BESIDE, member.size)
    return Picture(file.url, f"sample {key}", _content(stream, pictures[0]), label)


def _ends_as_picture(member: Member) -> bool:
    return f".{member.ending.rpartition('.')[2]}" in ENDINGS


def _fault(
    members: Sequence[Member], pictures: Sequence[Member], classes: Sequence[Member], runs: int
) -> str:
    """Why members are not a sample with one image; empty if they are."""
    if runs > 1:
        return (
            f"comes at {runs} places of the tar; members of a sample lie next to each other, as `tar "
            "--sort=name` puts them"
        )
    if len(pictures) != 1:
        endings = ", ".join(member.ending for member in members[:SHOWN])
        dots = "" if pictures else "; its key ends at the first dot of the name"
        return f"holds {len(pictures)} images instead of one (members: {endings}{dots})"
    if len(classes) > 1:
        return f"holds {len(classes)} classes instead of one"
    if not pictures[0].plain:
        return f"{pictures[0].name} is not a plain file"
    return too_large(pictures[0].size) if pictures[0].size > MAX_BYTES else ""


def _content(stream: IO[bytes], member: Member) -> bytes:
    stream.seek(member.offset)
    data = stream.read(member.size)
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return data


def _text(stream: IO[bytes], member: Member) -> str:
    """The one line of a small member; empty if it has any other content."""
    if not member.plain or member.size > LARGEST_CLASS:
        return ""
    try:
        return _content(stream, member).decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
