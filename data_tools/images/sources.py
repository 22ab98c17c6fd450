"""Finds the image files of `--input` and the class that each image's folder stands for.

Images of an input folder are either all in subfolders, which name their classes, or all directly in it, and
then have none. Images that match a glob get the class of their folder, if they lie in several folders.
Samples of tars and parquet files carry their class themselves.
"""

import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from data_tools.errors import UserError
from data_tools.images.pixels import ENDINGS
from data_tools.left_out import LeftOut, check_left_out, together
from data_tools.sources import InputFile, check_readable_once, find_files, is_remote

FORMATS = {**dict.fromkeys(ENDINGS, "image"), ".tar": "tar", ".parquet": "parquet"}
MAX_BYTES = 256 << 20
"""Of one image file; anything larger is a bad record."""
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
"""Names of image folders that are splits of a data set and not classes."""


@dataclass(frozen=True)
class ImageFile(InputFile):
    """One file; `label` is the class of an image, where its folder names one."""

    label: str | None


@dataclass(frozen=True)
class Picture:
    """An image file's bytes; `where` is as in `BadRecord`. `label` None: it has no class."""

    file: str
    where: str
    data: bytes
    label: str | None


@dataclass(frozen=True)
class ImageInputs:
    """The files to read, in order, and the files in input folders that are not read."""

    files: tuple[ImageFile, ...]
    left_out: LeftOut


def too_large(size: int) -> str:
    """The reason for a bad record: the file is larger than `MAX_BYTES`."""
    return f"{size:,} bytes, more than the {MAX_BYTES:,} that one image may have"


def find_images(arguments: tuple[str, ...], labels: bool, allow_left_out: bool = False) -> ImageInputs:
    """Expand the `--input` arguments; `labels` False ignores the names of folders.

    Raises UserError for an argument that matches nothing, an unknown ending, a folder with images at two
    levels or with the splits of a data set for classes, a file that is given twice or not readable, and where
    more bytes would be left out than read, unless `allow_left_out`.
    """
    files: list[ImageFile] = []
    left_out: list[LeftOut] = []
    known = ", ".join(FORMATS)
    for argument in arguments:
        found = find_files(argument, _kind_of, f"known are {known}", known)
        plain = [ImageFile(**vars(file), label=None) for file in found.files]
        files += _labelled(argument, plain, found.of_folder) if labels else plain
        left_out.append(found.left_out)
    check_readable_once(files)
    total = together(left_out)
    check_left_out(total, sum(file.size for file in files), allow_left_out)
    return ImageInputs(tuple(files), total)


def _kind_of(url: str) -> tuple[str | None, str | None]:
    if url.lower().endswith((".tar.gz", ".tgz")):  # the stock library reads them too
        return "tar", None
    return FORMATS.get(os.path.splitext(url)[1].lower()), None


def _labelled(argument: str, files: list[ImageFile], of_folder: bool) -> list[ImageFile]:
    pictures = [file for file in files if file.format == "image"]
    if of_folder and not is_remote(argument):
        top = os.path.expanduser(argument)
        folders = {file.url: _first_folder(os.path.relpath(file.url, top)) for file in pictures}
    elif of_folder:
        top = argument.rstrip("/") + "/"
        folders = {file.url: _first_folder(file.url.removeprefix(top)) for file in pictures}
    else:
        folders = {file.url: PurePosixPath(file.url).parent.name for file in pictures}
        if len(set(folders.values())) < 2:
            return files
    inside = [url for url, folder in folders.items() if folder]
    directly = [url for url, folder in folders.items() if not folder]
    if inside and directly:
        raise UserError(
            f"--input {argument}: {directly[0]} lies directly in it and {inside[0]} in a folder that would "
            "name its class; move them to one level, or give --labels none"
        )
    names = sorted(set(folders.values()))
    if inside and {name.lower() for name in names} <= SPLITS:
        raise UserError(
            f"--input {argument}: its folders {', '.join(names)} are named as parts of a data set, not as "
            f"classes; build each alone (--input {argument.rstrip('/')}/{names[0]}) or give --labels none"
        )
    return [replace(file, label=folders.get(file.url) or None) for file in files]


def _first_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else ""
