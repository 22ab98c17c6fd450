"""Configs of jobs that are no training: a data build, and an evaluation, each with its section `slurm`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pretrain.config.sections import Section, SlurmConfig
from pretrain.config.sections.section import Count, Name, PathText


def _one_or_more(value: object) -> object:
    """One text, or a list of them, as a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Paths = Annotated[tuple[PathText, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class BuildSection(Section):
    """What `pretrain data build` is given; its options of the same names say more."""

    input: Paths
    """Files, folders, globs or URLs of text; one, or a list."""
    tokenizer: PathText
    """Tokenizer directory."""
    output: PathText
    """Shard directory, on a file system that all nodes see."""
    tasks: Count = 8
    """Tasks of the array, each of which does its share of the input files."""
    workers: Count | None = None
    """Processes of a task; null: slurm.cpus_per_task, or 1."""
    text_key: Name = "text"
    """Key (.jsonl) or column (.parquet) that holds the text."""
    document: Literal["file", "line", "blank-line"] = "file"
    """What a document is in .txt."""
    input_format: Literal["auto", "txt", "jsonl", "parquet"] = "auto"
    """Read every file as this."""
    sentences: Literal["none", "split", "lines"] = "none"
    """Keep where sentences begin, for BERT."""
    bad_records: Name = "stop"
    """stop, or skip:N."""


class BuildJob(Section):
    """A file for `pretrain submit` that builds token shards."""

    build: BuildSection
    slurm: SlurmConfig = SlurmConfig()


class EvaluationSection(Section):
    """What `pretrain eval` is given."""

    run: PathText | None = None
    """Run directory; null: that of --after."""
    every_checkpoint: bool = False
    """Score every new checkpoint while the run goes on, not the newest alone once it has ended."""
    data: Annotated[tuple[PathText, ...], BeforeValidator(_one_or_more)] = ()
    """Shards to score in place of the run's validation data; one directory, or a list."""
    stride: Count | None = None
    """Tokens that a window moves on; null: a whole sequence."""


class EvaluationJob(Section):
    """A file for `pretrain submit` that scores checkpoints."""

    evaluation: EvaluationSection
    slurm: SlurmConfig = SlurmConfig()
