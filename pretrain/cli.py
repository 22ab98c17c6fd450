"""The face: every command of `pretrain`, its options, and one exit code for each way to end.

Commands import what they need when they run, so that `pretrain --help` answers at once.
Exit codes: 0 done; 2 wrong usage, config or input; 3 integrity failure; 4 stopped by a health verdict;
75 stopped early with a checkpoint; 130 interrupted. Anything else, with a traceback, is a bug.
"""

import enum
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from data_tools.cli import app as data_app
from pretrain.commands.overrides import ConfigCommand
from pretrain.errors import UserError, machine_error
from pretrain.run.exit import print_error

if TYPE_CHECKING:
    from pretrain.kind import Kind

app = typer.Typer(
    name="pretrain",
    help="Distributed pretraining: raw data to a scored checkpoint, on a laptop or a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")
configs_app = typer.Typer(help="List the configs that come with the package, or copy one to edit.")
app.add_typer(configs_app, name="configs")


def option(metavar: str, text: str, *names: str, min: int | None = None) -> Any:
    """An option with a value, which `metavar` stands for in the help."""
    return typer.Option(*names, metavar=metavar, help=text, min=min)


ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="Config file (YAML).")]
CheckpointPath = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="Run directory (its newest good checkpoint) or a step-* in it."
    ),
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config keys to set, such as optimizer.lr=1e-3."),
]
Processes = Annotated[int | None, option("N", "Processes to start on this machine.", min=1)]


class ResizeName(enum.StrEnum):
    """Who resizes images for Inception."""

    file = "file"
    antialias = "antialias"


@configs_app.callback(invoke_without_command=True)
def configs(context: typer.Context) -> None:
    """List the configs that come with the package, or copy one to edit."""
    if context.invoked_subcommand is None:
        from pretrain.commands.configs import list_command

        list_command()


@configs_app.command(name="copy")
def copy_config(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Preset, such as gpt3-1.3b or gpt/tiny.")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="New file, or a folder; default: NAME.yaml in this one."),
    ] = None,
) -> None:
    """Write a preset to edit, with the files that it names; nothing is overwritten."""
    from pretrain.commands.configs import copy_command

    copy_command(name, target)


@app.command(cls=ConfigCommand)
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Annotated[int | None, option("N", "Also check the layout against N processes.", min=1)] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every key with its value and source.")] = False,
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Also open the shards that the config names.")
    ] = True,
) -> None:
    """Report everything that is wrong with a config at once; needs no GPU."""
    from pretrain.commands.check import check_command

    check_command(config, overrides or (), processes, show=show, data=data)


@app.command(cls=ConfigCommand)
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, option("N", "Total number of GPUs; default: from the slurm section.", min=1)
    ] = None,
    gpu: Annotated[
        str, option("NAME", "a100-40g, a100-80g, h100-80g, h200-141g, b200-180g or cpu.")
    ] = "h100-80g",
    nodes: Annotated[
        int | None, option("N", "Number of nodes; default: as few as hold the GPUs.", min=1)
    ] = None,
    per_node: Annotated[int | None, option("N", "GPUs per node; default: 8.", min=1)] = None,
    network: Annotated[
        float | None, option("GBIT", "Network bandwidth of each GPU to other nodes, in Gbit/s.", min=1)
    ] = None,
    vocab_size: Annotated[
        int | None, option("N", "Vocabulary size; default: that of the data.", min=1)
    ] = None,
    tokens: Annotated[
        float | None, option("N", "Length of the run in tokens; default: run.steps.", min=1)
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Rank every legal layout by step time.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate memory, time and cost on a cluster; needs no GPU."""
    from pretrain.plan.command import PlanRequest, plan_command

    request = PlanRequest(gpu, gpus, nodes, per_node, network, vocab_size, tokens, search, json)
    plan_command(config, overrides or (), request)


@app.command(cls=ConfigCommand)
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Processes = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Try the job of N processes in one process, without a GPU; trains nothing."
        ),
    ] = False,
) -> None:
    """Train; inside srun or torchrun this is one rank of many."""
    if dry_run:
        from pretrain.commands.dry_run import dry_run_command

        dry_run_command(config, overrides or (), processes)
        return
    from pretrain.run.signals import Signals

    with Signals() as signals:  # before the imports, which take seconds: a signal must not be lost in them
        from pretrain.commands.launch import train_command

        train_command(config, processes, overrides or (), signals)


@app.command(name="eval", cls=ConfigCommand)
def evaluate(
    checkpoint: CheckpointPath,
    overrides: Overrides = None,
    processes: Processes = None,
    suite: Annotated[
        str | None, option("FILE", "Score the tasks listed in this file (configs/eval).")
    ] = None,
    tasks: Annotated[
        list[str] | None, option("FILE|NAME", "A task of lm-evaluation-harness, run offline; repeatable.")
    ] = None,
    task_folder: Annotated[
        str | None, option("DIR", "Where to find tasks by name; default: configs/eval/tasks.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Score every checkpoint without a score.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Like --all, then each new one until the run ends.")
    ] = False,
    json: Annotated[str | None, option("FILE", "Also write the result as JSON.")] = None,
    stride: Annotated[
        int | None, option("N", "Tokens between two windows; default: a full sequence.", min=1)
    ] = None,
    data: Annotated[
        list[str] | None, option("DIR", "Shards to score instead of the run's validation data; repeatable.")
    ] = None,
    extractor: Annotated[str | None, option("RUN", "GAN: classifier whose features are compared.")] = None,
    inception_weights: Annotated[
        str | None, option("FILE", "GAN: Inception as a TorchScript file; gives FID.")
    ] = None,
    inception_sha256: Annotated[str | None, option("HEX", "Expected SHA-256 of that file.")] = None,
    resize: Annotated[
        ResizeName | None,
        typer.Option(help="What resizes images for Inception; default: its file."),
    ] = None,
    samples: Annotated[
        int | None, option("N", "GAN: images to generate; default: as many as real ones.", min=1)
    ] = None,
    seed: Annotated[int | None, option("S", "GAN: seed of the images; default 1234.", min=0)] = None,
) -> None:
    """Score a checkpoint: perplexity, accuracy, or the distance of generated images to real ones."""
    if every and watch:
        raise UserError("--watch does what --all does; leave out one of them")
    from evals.command import Command, evaluate_command
    from evals.images.options import ImageEvalOptions

    images = ImageEvalOptions(
        extractor=extractor,
        inception_weights=inception_weights,
        inception_sha256=inception_sha256,
        resize=resize.value if resize else None,
        samples=samples,
        seed=seed,
    )
    which: Literal["newest", "all", "watch"] = "watch" if watch else "all" if every else "newest"
    named, keys, given = tuple(data or ()), tuple(overrides or ()), tuple(tasks or ())
    asked = Command(checkpoint, json, stride, named, images, suite, which, keys, given, task_folder)
    evaluate_command(asked, processes)


@app.command(cls=ConfigCommand)
def generate(
    checkpoint: CheckpointPath,
    overrides: Overrides = None,
    prompt: Annotated[list[str] | None, option("TEXT", "Text to continue; repeatable.")] = None,
    max_tokens: Annotated[int | None, option("N", "Tokens to generate; default 100.", min=1)] = None,
    temperature: Annotated[
        float | None, option("T", "Sampling temperature, above 0: the logits are divided by it; default 1.")
    ] = None,
    top_k: Annotated[int | None, option("K", "Sample from the K most likely tokens only.", min=1)] = None,
    top_p: Annotated[
        float | None,
        option("P", "Nucleus sampling: sample from the most likely tokens whose probabilities add up to P."),
    ] = None,
    seed: Annotated[int | None, option("S", "Seed for sampling; default 1234.", min=0)] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer each --prompt, each line of standard input, or interactively."),
    ] = False,
    processes: Processes = None,
    output: Annotated[
        str | None,
        option("PATH", "GAN: a .png file for a grid, or a folder for single images.", "--output", "-o"),
    ] = None,
    count: Annotated[int | None, option("N", "GAN: number of images; default 64.", min=1)] = None,
    label: Annotated[int | None, option("K", "GAN: class of all images.", "--class", min=0)] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="GAN: use the raw weights instead of their moving average.")
    ] = False,
) -> None:
    """Generate text, or a GAN's images, from a checkpoint."""
    from pretrain.config.generate_request import GenerateRequest

    request = GenerateRequest(
        checkpoint=checkpoint,
        prompt=tuple(prompt or ()) or None,
        max_tokens=max_tokens,
        greedy=greedy or None,
        chat=chat or None,
        processes=processes,
        overrides=tuple(overrides or ()) or None,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        output=output,
        count=count,
        label=label,
        raw=raw or None,
    )
    kind = _kind_saved_in(checkpoint, request.refuse_whatever_the_kind)
    if kind.generation is None:
        raise _not_for(checkpoint, kind, "generation")
    request.refuse_all_but(kind.generation.options, kind.name)
    kind.generation.run(request)


def _kind_saved_in(checkpoint: str, refuse: Callable[[], None] = lambda: None) -> "Kind[Any, Any]":
    """The kind of a run folder or a step folder; raises UserError where it is neither, what `refuse` does
    first."""
    from pretrain.config.load import saved_kind
    from pretrain.kinds import kind_named

    if "\0" in checkpoint:
        raise UserError(f"checkpoint path {checkpoint!r} holds a NUL byte")
    name = saved_kind(checkpoint)
    if name is None:
        refuse()
        from pretrain.checkpoint import resolve

        raise UserError(f"{resolve(checkpoint)}: holds no config, so nobody knows what it is")
    return kind_named(name)


def _not_for(checkpoint: str, kind: "Kind[Any, Any]", command: str) -> UserError:
    """The error about a kind whose record has no such command."""
    from pretrain.kinds import every_kind

    known = " or ".join(each.name for each in every_kind() if getattr(each, command))
    return UserError(f"{checkpoint}: this command is for model.kind {known}; this config has {kind.name}")


@app.command()
def export(
    checkpoint: CheckpointPath,
    output: Annotated[str, typer.Argument(metavar="OUT", help="New folder for transformers to load.")],
    shard_size: Annotated[int | None, option("MB", "Largest file of weights; default 2000.", min=1)] = None,
    tokenizer: Annotated[
        bool, typer.Option("--tokenizer/--no-tokenizer", help="Also export the tokenizer.")
    ] = True,
) -> None:
    """Export a GPT or a BERT for transformers, checked by its logits, or a GAN's generator."""
    kind = _kind_saved_in(checkpoint)
    if kind.export is None:
        raise _not_for(checkpoint, kind, "export")
    given = {"shard_bytes": shard_size * 1_000_000} if shard_size else {}
    given |= {} if tokenizer else {"tokenizer": False}
    for name in sorted(given.keys() - kind.export.options):
        option = {"shard_bytes": "--shard-size", "tokenizer": "--no-tokenizer"}[name]
        raise UserError(f"{option} has no effect on a checkpoint of model.kind {kind.name}; remove it")
    kind.export.run(checkpoint, output, **given)


@app.command(name="import")
def import_(
    folder: Annotated[str, typer.Argument(metavar="HF_DIR", help="Folder that transformers loads.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="New run folder.")],
) -> None:
    """Turn a Hugging Face model into a run: to score, to generate from, or to train further."""
    from pretrain.hf.importer import import_command

    import_command(folder, output)


@app.command()
def quickstart(
    out: Annotated[str, option("DIR", "Folder for everything that is created.")] = "quickstart",
) -> None:
    """Train, score and sample small models on data that Python ships with; takes a few minutes."""
    from pretrain.commands.quickstart.command import quickstart_command

    quickstart_command(out)


@app.command(cls=ConfigCommand)
def parity(
    config: ConfigPath,
    overrides: Overrides = None,
    layouts: Annotated[
        str | None,
        option(
            "NAMES",
            "Such as TP2,PP2xVPP2,TP2xCP2+SP,DP2+DO; default: the config's own and TP2, PP2, CP2, DP2.",
        ),
    ] = None,
    steps: Annotated[int, option("N", "Steps to train in each layout.", min=1)] = 5,
    out: Annotated[str | None, option("DIR", "Working folder; default: beside run.dir.")] = None,
) -> None:
    """Prove on this machine that a config trains the same in every layout, at reduced depth."""
    from pretrain.proofs.parity import parity_command

    parity_command(config, layouts, steps, out, overrides or ())


@app.command(name="verify-resume", cls=ConfigCommand)
def verify_resume(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Processes = None,
    steps: Annotated[int, option("N", "Steps before the checkpoint; as many follow it.", min=1)] = 10,
    out: Annotated[str | None, option("DIR", "Working folder; default: beside run.dir.")] = None,
) -> None:
    """Prove on this machine that a config resumes exactly: kill -9, resume, compare bit by bit."""
    from pretrain.proofs.resume import verify_resume_command

    verify_resume_command(config, processes, steps, out, overrides or ())


@app.command(cls=ConfigCommand)
def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None,
        option("FILE", "Base config for the keys that CONFIG leaves out, such as configs/cluster/*.yaml."),
    ] = None,
    after: Annotated[str | None, option("RUN", "Evaluate this run once its job has ended.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script and send nothing.")] = False,
) -> None:
    """Submit a training, a data build or an evaluation to Slurm; the job checks its nodes and requeues
    itself."""
    from slurm.submit import submit_command

    submit_command(config, overrides or (), cluster, after, dry_run=dry_run)


@app.command()
def status(run: RunPath) -> None:
    """Show the state of a run: step, loss, speed, time left, restarts and their reasons."""
    from slurm.status import status_command

    status_command(run)


@app.command()
def logs(
    run: RunPath,
    rank: Annotated[
        int | None, option("N", "Show the log of this rank; default: that of the job.", min=0)
    ] = None,
    lines: Annotated[int, option("N", "Number of lines to show.", "-n", "--lines", min=1)] = 40,
) -> None:
    """Show the end of a run's log."""
    from slurm.watch import logs_command

    logs_command(run, rank, lines)


@app.command()
def cancel(
    run: RunPath,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a checkpoint.")] = False,
) -> None:
    """Cancel a run's Slurm job: it saves a checkpoint and is not requeued."""
    from slurm.watch import cancel_command

    cancel_command(run, now=now)


@app.command()
def doctor() -> None:
    """Report what this machine has, what is missing, and what that costs."""
    from pretrain.commands.doctor import doctor_command

    doctor_command()


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run directories.")],
    plot: Annotated[
        str | None, option("FILE", "Also plot their losses over tokens or images, as a PNG.")
    ] = None,
) -> None:
    """Compare runs side by side: settings, progress and scores."""
    from pretrain.tracking.compare import compare_command

    compare_command(runs, plot)


@app.command()
def sync(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run directories.")],
    uri: Annotated[str | None, option("URI", "MLflow URI to send to; default: the one of the run.")] = None,
) -> None:
    """Send to MLflow what it has missed of one or more runs; nothing is sent twice."""
    from pretrain.tracking.sync import sync_command

    sync_command(runs, uri=uri)


@app.command()
def register(
    checkpoint: CheckpointPath,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the registered model, new or existing.")
    ],
    weights: Annotated[
        bool, typer.Option("--weights", help="Upload the weights too, not only the files that identify them.")
    ] = False,
    uri: Annotated[
        str | None, option("URI", "MLflow URI to register with; default: the one of the run.")
    ] = None,
) -> None:
    """Register a checkpoint as a version of a model in MLflow's registry."""
    from pretrain.tracking.register import register_command

    register_command(checkpoint, name, uri, weights=weights)


def main() -> None:
    """Run a command; what a user can cause ends in one message on stderr, without traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files need not be UTF-8
    try:
        app()
    except UserError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        message = machine_error(error)
        if message is None:
            raise
        _end(message, UserError.exit_code)


def _end(message: str, code: int) -> None:
    print_error(f"pretrain: error: {message}")
    sys.exit(code)
