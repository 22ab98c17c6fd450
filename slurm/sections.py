"""Files for `pretrain submit` that are not a training: data builds and evaluations, each with `slurm`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field

from evals.suite import ImageOptionsSection, Paths
from pretrain.config.load import read_section
from pretrain.config.node import ConfigError, Problem, SourceLocation
from pretrain.config.rule import Setup, broken_rules
from pretrain.config.rules.service import SLURM
from pretrain.config.sections import Section, SlurmConfig
from pretrain.config.sections.section import Count, Name, PathText, Texts


class BuildSection(Section):
    """What builds of text and of images, and cleanings, are given."""

    input: Annotated[Paths, Field(min_length=1)]
    """Files, folders, globs or URLs; one, or a list."""
    output: PathText
    """Directory to write, on a file system that all nodes see."""
    tasks: Count = 8
    """Tasks of the array, each of which does its share of the input files."""
    workers: Count | None = None
    """Processes of a task; null: slurm.cpus_per_task, or 1."""
    bad_records: Name = "stop"
    """stop, or skip:N."""
    allow_left_out: bool = False
    """Go on where more bytes of the input are left out than read."""


class ReadingSection(BuildSection):
    """What those are given that read text."""

    text_key: Name = "text"
    """Key (.jsonl) or column (.parquet) that holds the text."""
    document: Literal["file", "line", "blank-line"] = "file"
    """What a document is in .txt."""
    input_format: Literal["auto", "txt", "jsonl", "parquet"] = "auto"
    """Read every file as this."""


class TextSection(ReadingSection):
    """What `pretrain data build` is given; its options of the same names say more."""

    tokenizer: PathText
    """Tokenizer directory, or one of the files that `--tokenizer` takes."""
    sentences: Literal["none", "split", "lines"] = "none"
    """Keep where sentences begin, for BERT."""
    lossy: bool = False
    """Take a tokenizer that changes texts."""
    end_of_document: Name | None = None
    """Special token that ends a document, if the tokenizer does not say."""
    encoding: Name | None = None
    """Whose pattern a .tiktoken file is for."""


class TextJob(Section):
    """A file for `pretrain submit` that builds token shards."""

    build: TextSection
    slurm: SlurmConfig = SlurmConfig()


class CleanSection(ReadingSection):
    """What `pretrain data clean` is given; its options of the same names say more."""

    quality: Annotated[tuple[Literal["c4", "gopher", "repetition", "fineweb"], ...], Texts] = (
        "gopher",
        "repetition",
    )
    """Rules that a text must pass; [] for none."""
    min_words: Count = 50
    """Fewest words."""
    max_words: Count = 100_000
    """Most words."""
    min_line_words: Count = 5
    """Fewest words of a line."""
    min_sentences: Count = 3
    """Fewest sentences of what is left."""
    language: Name | None = None
    """Language to keep, as in en; null: any."""
    language_share: Annotated[float, Field(gt=0, le=1)] = 0.65
    """Least probability of the language."""
    exact: bool = True
    """Remove copies."""
    near: bool = True
    """Remove what is much like another text."""
    bands: Count = 14
    """MinHash bands."""
    rows: Count = 8
    """Hashes of a band."""


class CleanJob(Section):
    """A file for `pretrain submit` that cleans text."""

    clean: CleanSection
    slurm: SlurmConfig = SlurmConfig()


class ImagesSection(BuildSection):
    """What `pretrain data images` is given; its options of the same names say more."""

    size: Count
    """Pixels a side of the square images."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    format: Literal["png", "webp"] = "png"
    """How images are stored."""
    labels: Literal["auto", "none"] = "auto"
    """Classes from folders, tars and parquet, or none."""
    classes: PathText | None = None
    """Image shards whose classes and numbers to use."""
    image_key: Name = "image"
    """Column (.parquet) that holds the image."""
    label_key: Name = "label"
    """Column (.parquet) that holds the class."""


class ImagesJob(Section):
    """A file for `pretrain submit` that builds image shards."""

    images: ImagesSection
    slurm: SlurmConfig = SlurmConfig()


class EvaluationSection(ImageOptionsSection):
    """What `pretrain eval` is given."""

    run: PathText | None = None
    """Run directory; null: that of --after."""
    every_checkpoint: bool = False
    """Score every new checkpoint while the run goes on, not the newest alone once it has ended."""
    suite: PathText | None = None
    """File that lists what to score (configs/eval); null: what `pretrain eval` scores without one."""
    data: Paths = ()
    """Shards to score in place of the run's validation data; one directory, or a list."""
    stride: Count | None = None
    """Tokens that a window moves on; null: a whole sequence."""


class EvaluationJob(Section):
    """A file for `pretrain submit` that scores checkpoints."""

    evaluation: EvaluationSection
    slurm: SlurmConfig = SlurmConfig()


J = TypeVar("J", TextJob, CleanJob, ImagesJob, EvaluationJob)


def read_job(
    top: type[J], path: str, overrides: Sequence[str], cluster: str | None, useless: Sequence[str]
) -> tuple[J, Mapping[str, SourceLocation]]:
    """The file and the location of each key, with the rules of its section `slurm`.

    Keys about trainings in a cluster's file are ignored.

    Args:
        cluster: file with defaults for its section `slurm`.
        useless: keys of `slurm` without effect here; in the file itself they are refused.
    """
    job, sources = read_section(top, path, overrides, cluster)
    problems = [violation.problem(sources) for violation in broken_rules(SLURM, Setup(cast(Any, job), None))]
    for key in useless:
        location = sources[f"slurm.{key}"]
        if location.layer in ("file", "command line"):
            problems.append(Problem(location, f"slurm.{key}", "has no effect on this job; remove it"))
    if problems:
        raise ConfigError(problems)
    unset = {key: type(job.slurm).model_fields[key].default for key in useless}
    return job.model_copy(update={"slurm": job.slurm.model_copy(update=unset)}), sources
