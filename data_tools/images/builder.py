"""Images to image shards: parallel, resumable, and the same bytes whatever the number of workers."""

import shutil
import time
import unicodedata
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.bad_records import BadRecord, check_skipped, write_skipped
from data_tools.counts import are, counted
from data_tools.directory import open_directory, passing_cache
from data_tools.divided import Divided, all_skipped
from data_tools.errors import UserError
from data_tools.images.index import (
    CHANNELS,
    CLASS_NAME,
    ENCODINGS,
    MAX_CLASSES,
    MAX_SIZE,
    ImageIndex,
    ImageShard,
    make_image_index,
    read_image_index,
    write_image_index,
)
from data_tools.images.pixels import encode, read_square
from data_tools.images.reader import ImageReader
from data_tools.images.records import ImageColumns, read_declared, read_labels, read_pictures
from data_tools.images.sources import ImageInputs, Picture, find_images
from data_tools.images.writer import ImageWriter
from data_tools.left_out import LeftOut, check_left_out, together
from data_tools.partition import Partition, make_partitions
from data_tools.pool import Report
from data_tools.sources import is_remote, plan_of_inputs, refuse_inside_output
from data_tools.typed import parse
from data_tools.workspace import PLAN_NAME, Workspace


@dataclass(frozen=True)
class ImageBuildOptions:
    """The arguments of a build. `max_bad_records` 0 stops at the first one; `workers` 0 is one per core.

    labels: False ignores all labels. classes: a shard directory whose classes to use; None: those found.
    """

    inputs: tuple[str, ...]
    output: str
    size: int
    channels: int = 3
    encoding: str = "png"
    workers: int = 0
    max_bad_records: int = 0
    labels: bool = True
    image_key: str = "image"
    label_key: str = "label"
    classes: str | None = None
    restart: bool = False
    allow_left_out: bool = False

    @property
    def columns(self) -> ImageColumns:
        """The parquet columns of image and label."""
        return ImageColumns(self.image_key, self.label_key if self.labels else None)


@dataclass(frozen=True)
class ImageReport:
    """What a build did. For enlarged and unconverted see `ImageResult`.

    `resumed` counts partitions that an earlier, interrupted build had finished.
    """

    index: ImageIndex
    left_out: LeftOut
    enlarged: int
    unconverted: int
    skipped: tuple[BadRecord, ...]
    partitions: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class ImageResult:
    """The result of one partition.

    `enlarged` counts images smaller than requested, `unconverted` those whose colours are not sRGB and were
    kept.
    bytes: of the image files. left_out: members of tars that were not read.
    """

    number: int
    shards: tuple[ImageShard, ...]
    enlarged: int
    unconverted: int
    skipped: tuple[BadRecord, ...]
    bytes: int
    left_out: LeftOut


@dataclass(frozen=True)
class ImageJob:
    """Everything a worker needs to turn a partition into shards; called once per partition."""

    options: ImageBuildOptions
    classes: tuple[str, ...]

    def __call__(self, partition: Partition, report: Report) -> ImageResult:
        """Write the partition's shards and record it as finished; reports bytes of input processed."""
        options, enlarged, unconverted, size, left_out = self.options, 0, 0, 0, LeftOut()
        workspace = Workspace(Path(options.output))
        writer = ImageWriter(workspace.directory, workspace.work, partition.number, options.encoding)
        numbers = {name: number for number, name in enumerate(self.classes)}
        skipped: list[BadRecord] = []
        for unit in partition.units:
            reported = 0
            for record in read_pictures(unit, options.columns, left_out):
                if not isinstance(record, BadRecord):
                    try:
                        label = self._label(record, numbers)
                        square = read_square(record.data, options.size, options.channels)
                    except ValueError as error:
                        record = BadRecord(record.file, record.where, str(error))
                if isinstance(record, BadRecord):
                    skipped.append(record)
                    check_skipped(skipped, options.max_bad_records)
                    continue
                writer.add(encode(square.picture, options.encoding), label)
                enlarged += square.enlarged
                unconverted += square.unconverted
                size += len(record.data)
                done = min(len(record.data), unit.weight - reported)
                report(done)
                reported += done
            report(unit.weight - reported)
        result = ImageResult(
            partition.number, writer.close(), enlarged, unconverted, tuple(skipped), size, left_out
        )
        workspace.save(partition.number, result)
        return result

    def _label(self, record: Picture, numbers: dict[str, int]) -> int | None:
        """The number of an image's class. Raises ValueError for an image that has none, or another one."""
        if not numbers:
            return None
        if record.label is None:
            raise ValueError("has no label, and others have; --labels none leaves all of them out")
        if record.label not in numbers:
            raise ValueError(
                f"its class {record.label!r} is not one of the {len(numbers)} classes of --classes"
            )
        return numbers[record.label]


def build_images(options: ImageBuildOptions) -> ImageReport:
    """Build a directory of image shards, or continue an interrupted build with the same arguments.

    Raises UserError for unusable input and for an output directory that holds something else.
    """
    start = time.monotonic()
    inputs, work, classes = prepare_images(options)
    index, results, resumed = work.whole(
        lambda workspace, results: _finish(workspace, options, classes, results),
        lambda directory: ImageReader(directory).index,
    )
    return ImageReport(
        index=index,
        left_out=together([inputs.left_out, *(result.left_out for result in results)]),
        enlarged=sum(result.enlarged for result in results),
        unconverted=sum(result.unconverted for result in results),
        skipped=all_skipped(results),
        partitions=len(work.partitions),
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


def prepare_images(options: ImageBuildOptions) -> tuple[ImageInputs, Divided[ImageResult], tuple[str, ...]]:
    """The input files, the work on them, and the classes.

    Raises UserError for unusable options and input.
    """
    _check_options(options)
    inputs = find_images(options.inputs, options.labels, options.allow_left_out)
    _check_keys(options, inputs)
    refuse_inside_output(inputs.files, options.output)
    classes = _classes(options, inputs)
    partitions, plan = make_partitions(inputs.files, "file"), _plan(options, inputs, classes)
    work = Divided(options, partitions, plan, partial(parse, ImageResult), ImageJob(options, classes))
    return inputs, work, classes


def _check_options(options: ImageBuildOptions) -> None:
    if not 1 <= options.size <= MAX_SIZE:
        raise UserError(f"--size {options.size}: pixels a side, from 1 to {MAX_SIZE}")
    if options.channels not in CHANNELS:
        raise UserError(f"--channels {options.channels}: 3 for colour or 1 for grey")
    if options.encoding not in ENCODINGS:
        raise UserError(f"--format {options.encoding}: {' or '.join(ENCODINGS)}")
    if options.classes is not None and not options.labels:
        raise UserError(f"--classes {options.classes}: has no effect with --labels none; remove one of them")
    if is_remote(options.output):
        raise UserError(
            f"--output {options.output}: must be a local directory; training maps shards into memory"
        )


def _check_keys(options: ImageBuildOptions, inputs: ImageInputs) -> None:
    if any(file.format == "parquet" for file in inputs.files):
        return
    for name, value, default in (
        ("--image-key", options.image_key, "image"),
        ("--label-key", options.label_key, "label"),
    ):
        if value != default:
            raise UserError(
                f"{name} {value}: has an effect on .parquet alone, and there is none in the input"
            )


def _classes(options: ImageBuildOptions, inputs: ImageInputs) -> tuple[str, ...]:
    """The names of the classes by number; empty if nothing is labelled."""
    if options.classes is not None:
        with passing_cache(options.classes) as cache:
            opened = open_directory(options.classes, cache)
            classes = read_image_index(opened.local, opened.named).classes
        if not classes:
            raise UserError(f"--classes {options.classes}: its images have no labels")
        return classes
    found: set[str] = set()
    for file in inputs.files:
        found |= read_labels(file, options.columns)
    listed = _listed(options, inputs)
    found |= set(listed)
    if len(found) > MAX_CLASSES:
        raise UserError(
            f"--input: {len(found):,} classes, more than {MAX_CLASSES:,}; see --label-key, --labels"
        )
    for name in found:
        if not CLASS_NAME.fullmatch(name):
            raise UserError(f"--input: {name!r} cannot name a class: 1 to 255 printable characters")
    _refuse_twins(found)
    if listed:
        if others := sorted(found.difference(listed)):
            raise UserError(
                f"--input: {others[0]!r} is a class of some files, and not among the {len(listed)} that a "
                f"ClassLabel of others lists: {', '.join(listed)[:200]}"
            )
        return listed
    if all(name.isascii() and name.isdigit() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _refuse_twins(classes: set[str]) -> None:
    """Refuse two names that look the same: macOS stores accented letters decomposed, others composed."""
    seen: dict[str, str] = {}
    for name in sorted(classes):
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"--input: two classes look the same, {other!a} and {name!a}: one name in two "
                "spellings of Unicode; give both the same"
            )


def _listed(options: ImageBuildOptions, inputs: ImageInputs) -> tuple[str, ...]:
    """The classes by number as parquet files list them; classes that no file lists are not included.

    Raises UserError for two files that number them differently.
    """
    first: tuple[str, tuple[str, ...]] | None = None
    for file in inputs.files if options.labels else ():
        if names := read_declared(file, options.columns):
            first = first or (file.url, names)
            if names != first[1]:
                raise UserError(
                    f"{file.url}: its ClassLabel lists {', '.join(names)[:200]}; that of {first[0]} lists "
                    f"{', '.join(first[1])[:200]}"
                )
    return first[1] if first else ()


def _plan(options: ImageBuildOptions, inputs: ImageInputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal for a build to be continued.

    Neither the number of workers nor the bad-record limit changes the shards, so neither is part of it.
    """
    kept = ("size", "channels", "encoding", "labels", "image_key", "label_key")
    return {
        **plan_of_inputs(options.inputs, inputs.files),
        **{key: value for key, value in asdict(options).items() if key in kept},
        "classes": list(classes),
    }


def _finish(
    workspace: Workspace, options: ImageBuildOptions, classes: tuple[str, ...], results: list[ImageResult]
) -> ImageIndex:
    """Write the files beside the shards; the index comes last and makes the directory readable."""
    directory = workspace.directory
    shards = tuple(shard for result in results for shard in result.shards)
    skipped = all_skipped(results)
    if not shards:
        workspace.remove()
        rest, bad = together(result.left_out for result in results), len(skipped)
        why = f"; left out: {rest}" if rest.files else ""
        if skipped:
            why += f"; all of its {counted(bad, 'record')} {are(bad)} bad, the first: {skipped[0]}"
        raise UserError(f"--input: there is no image in it, so there is nothing to build{why}")
    of_tars = together(result.left_out for result in results)
    check_left_out(of_tars, sum(result.bytes for result in results), options.allow_left_out)
    index = make_image_index(
        image_size=options.size,
        channels=options.channels,
        encoding=options.encoding,
        classes=classes,
        shards=shards,
    )
    write_skipped(directory, skipped)
    shutil.copyfile(workspace.work / PLAN_NAME, directory / PLAN_NAME)
    write_image_index(directory, index)
    workspace.remove()
    return index
