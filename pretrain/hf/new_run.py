"""A run that begins with weights from elsewhere: its folder, with a checkpoint of step 0."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint.geometry import Extent
from pretrain.checkpoint.index import LogicalTensor, StoredShard
from pretrain.checkpoint.layout import LATEST, step_name
from pretrain.checkpoint.tensors import TensorSource, dtype_name, write_sources
from pretrain.checkpoint.write import SaveJob, WrittenFiles, complete
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Config
from pretrain.errors import named
from pretrain.gpt.chat.template import FILE as TEMPLATE_FILE
from pretrain.gpt.chat.template import ChatTemplate
from pretrain.health.spikes import SpikeHistory
from pretrain.megatron.restore import RESOLVED_CONFIG, TOKENIZER_FOLDER
from pretrain.redact import write_new
from pretrain.run.folder import RunFolder
from pretrain.run.origin import LEFT_BEHIND
from pretrain.run.status import Status, write_status
from pretrain.tracking.facts import environment_facts

FILE = "weights-rank-0000.safetensors"


def write_run(
    run: Path,
    origin: str,
    config: Config,
    vocab_size: int,
    weights: Sequence[TensorSource],
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None = None,
    left_behind: Mapping[str, str] | None = None,
) -> None:
    """Write a run that has a checkpoint of step 0 and nothing else.

    Args:
        run: an empty folder.
        origin: where the weights come from, for its reader.
        vocab_size: ids of the tokenizer, without padding.
        weights: all logical tensors, made one by one.
        tokenizer: goes into the checkpoint.
        template: of conversations; goes into the checkpoint.
        left_behind: files of a tokenizer that is not imported, each with its sha256.
    """
    resolved = config_to_yaml(config)
    written = (
        f"# Imported from {json.dumps(origin)}. There are no shards: name some with `pretrain eval --data`,\n"
        f"# or start a run of your own with model.init_from.\n{resolved}"
    )
    folder = RunFolder(run)
    step = folder.checkpoints / step_name(0)
    for path in (folder.logs, folder.artifacts, step):
        path.mkdir(parents=True)
    files: dict[str, bytes | Path] = {"config.yaml": written.encode(), RESOLVED_CONFIG: resolved.encode()}
    if tokenizer is not None:
        tokenizer.save(run / TOKENIZER_FOLDER)
        files[TOKENIZER_FOLDER] = run / TOKENIZER_FOLDER
    if template is not None:
        files[TEMPLATE_FILE] = template.source.encode()
    status = _finished(origin, tokenizer)
    state = {
        "step": 0,
        "run": status.run,
        "samples": 0,
        "tokens": 0,
        "updates": 0,
        "vocab_size": vocab_size,
        "tokenizer_fingerprint": tokenizer.fingerprint if tokenizer else None,
        "data_fingerprint": None,
        "layout": "imported",
        "health": SpikeHistory().to_json(),
        **({LEFT_BEHIND: dict(left_behind)} if left_behind else {}),
    }
    job = SaveJob.of(0, (), json.dumps(state, indent=1, sort_keys=True).encode() + b"\n", files)
    with Progress("writing weights", sum(source.size for source in weights), "B") as progress:
        record = write_sources(step / FILE, weights, progress.advance)
    complete(
        step, job, {0: WrittenFiles({FILE: record}, {s.name: _logical(s) for s in weights})}, lambda _: None
    )
    with named(folder.checkpoints / LATEST):
        (folder.checkpoints / LATEST).write_text(f"{step_name(0)}\n")
    write_new(folder.config, written)
    write_new(folder.resolved, resolved)
    write_status(folder, status)


def _finished(origin: str, tokenizer: Tokenizer | None) -> Status:
    """The status "finished": there is nothing left to train in such a run."""
    facts = environment_facts() | {"imported_from": origin}
    if tokenizer is not None:
        facts["tokenizer_fingerprint"] = tokenizer.fingerprint
    now = time.time()
    return Status(uuid.uuid4().hex, 1, "finished", step=0, steps=0, started=now, time=now, facts=facts)


def _logical(source: TensorSource) -> LogicalTensor:
    """The index entry of a tensor, which is whole and in the only file."""
    whole = Extent(tuple(0 for _ in source.shape), source.shape)
    stored = (StoredShard(FILE, source.name, whole),)
    return LogicalTensor(source.name, source.shape, dtype_name(source.dtype), "weights", stored)
