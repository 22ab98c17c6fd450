"""The command `pretrain data images`; heavy imports wait until it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_tools.bad_records import SKIPPED_NAME, BadRecordsOption, parse_bad_records, print_skipped
from data_tools.counts import counted
from data_tools.options import (
    AllowLeftOutOption,
    OutputOption,
    PartOption,
    RestartOption,
    WorkersOption,
    print_left_out,
    whole_or_part,
)

if TYPE_CHECKING:
    from data_tools.images.builder import ImageReport


InputOption = Annotated[
    list[str],
    typer.Option(
        "--input", "-i", help="Folder, glob, file or fsspec URL; may be repeated. Pictures, .tar, .parquet"
    ),
]


def images(
    inputs: InputOption,
    output: OutputOption,
    size: Annotated[int, typer.Option(metavar="N", help="Pixels a side of the square images.")],
    channels: Annotated[int, typer.Option(metavar="3|1", help="3 for colour, 1 for grey.")] = 3,
    encoding: Annotated[
        Literal["png", "webp"], typer.Option("--format", help="How images are stored.")
    ] = "png",
    labels: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: classes from folders, tars and parquet; none: leave them out."),
    ] = "auto",
    classes: Annotated[
        str | None, typer.Option(metavar="DIR", help="Image shards whose classes and numbers to use.")
    ] = None,
    workers: WorkersOption = None,
    bad_records: BadRecordsOption = "stop",
    image_key: Annotated[str, typer.Option(help="Column (.parquet) that holds the image.")] = "image",
    label_key: Annotated[str, typer.Option(help="Column (.parquet) that holds the class.")] = "label",
    restart: RestartOption = False,
    allow_left_out: AllowLeftOutOption = False,
    part: PartOption = None,
) -> None:
    """Turn images into shards of square ones; interrupted, the same command goes on where it was."""
    from data_tools.images.builder import ImageBuildOptions, build_images

    options = ImageBuildOptions(
        inputs=tuple(inputs),
        output=str(output),
        size=size,
        channels=channels,
        encoding=encoding,
        workers=workers or 0,
        max_bad_records=parse_bad_records(bad_records),
        labels=labels == "auto",
        image_key=image_key,
        label_key=label_key,
        classes=classes,
        restart=restart,
        allow_left_out=allow_left_out,
    )
    report = whole_or_part(options, build_images, part)
    if report is not None:
        _print_report(output, report)


def _print_report(output: Path, report: "ImageReport") -> None:
    index = report.index
    kinds = counted(len(index.classes), "class") if index.classes else "no classes"
    typer.echo(
        f"{output}: {counted(index.images, 'image')} of {index.image_size} x {index.image_size}, {kinds}, "
        f"{counted(len(index.shards), 'shard')}, {report.seconds:.1f} s"
    )
    if report.resumed:
        typer.echo(f"{report.resumed} of {report.partitions} partitions were done before")
    if report.enlarged:
        typer.echo(f"{counted(report.enlarged, 'image')} smaller than {index.image_size} enlarged")
    if report.unconverted:
        typer.echo(
            f"{counted(report.unconverted, 'image')} with colours that are not sRGB and cannot be converted: "
            "the numbers are taken for sRGB"
        )
    print_left_out(report.left_out, "input folders and tars")
    print_skipped(report.skipped, output / SKIPPED_NAME)
