"""`pretrain export`: a checkpoint of any layout as a folder that transformers loads.

Each tensor is read, cut, written and released, so at most two copies of the largest one are in memory. Then
the folder is loaded by transformers and its logits are compared with ours.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from data_tools.progress import Progress, amount
from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.new_folder import new_folder
from pretrain.checkpoint.tensors import DTYPES, TensorSource
from pretrain.checkpoint.tokenizer import keeps_tokenizer, load_tokenizer
from pretrain.config.sections import ChatConfig, CorpusConfig, FinetuneConfig
from pretrain.errors import IntegrityError, UserError
from pretrain.gpt.chat.template import template_of
from pretrain.hf.architecture import Architecture
from pretrain.hf.library import require_transformers
from pretrain.hf.param_mapping import ParamMapping
from pretrain.hf.proof import prove
from pretrain.hf.registry import architecture_of
from pretrain.hf.shards import write_shards
from pretrain.hf.tokenizer import OURS, why_not, write_template, write_tokenizer
from pretrain.megatron.restore import SavedModel, open_saved_model, saved_labels
from pretrain.run.exit import print_error

SHARD_BYTES = 2_000_000_000


def export_command(
    checkpoint: str, output: str, shard_bytes: int | None = None, *, tokenizer: bool = True
) -> None:
    """Write a checkpoint of a GPT or a BERT, pretrained or fine-tuned, as a transformers folder.

    Args:
        checkpoint: run folder (its newest good checkpoint) or one step folder in it.
        shard_bytes: bytes of a file of weights, unless a tensor is larger; None: 2 GB.
        tokenizer: whether the tokenizer goes with it.

    Raises:
        UserError: the model or its tokenizer has no counterpart in transformers.
        IntegrityError: the checkpoint is damaged, or the logits of the two models differ.
    """
    require_transformers("pretrain export")
    saved = open_saved_model(checkpoint, print_error, (CorpusConfig, ChatConfig, FinetuneConfig))
    labels = saved_labels(saved.checkpoint)
    architecture = architecture_of(saved.config, labels)
    if architecture.labels == ():
        raise UserError(
            f"{saved.checkpoint.path}: its state.json does not name the classes; train on for a step"
        )
    own = load_tokenizer(saved.checkpoint) if keeps_tokenizer(saved.checkpoint) else None
    if own is not None and tokenizer and (reason := why_not(own)):
        raise UserError(f"{saved.checkpoint.path}: {reason}; --no-tokenizer exports without it")
    ids = {} if own is None else _ids(own)
    with new_folder(output) as folder:
        largest = _write_weights(saved, architecture, folder, shard_bytes or SHARD_BYTES)
        _write_config(saved, architecture, ids, folder)
        if own is not None and own.is_ours:
            own.save(folder / OURS)
        if own is not None and tokenizer:
            _write_tokenizer(saved, own, folder)
        class_name = architecture.class_of(saved.config)
        difference = prove(architecture, saved.config, saved.vocab_size, saved.checkpoint.read, folder)
    with_tokenizer = "with tokenizer" if own is not None and tokenizer else "without tokenizer"
    print(
        f"{output}: {class_name} of step {saved.checkpoint.step}, {with_tokenizer}, largest file "
        f"{amount(largest, 'B')}; logits differ by {difference:.1e} from ours"
    )


def _ids(tokenizer: Tokenizer) -> dict[str, int]:
    """What config.json calls special ids."""
    begin = (tokenizer.eod_id,) if tokenizer.is_ours else tokenizer.begin_ids
    ids = {"eos": tokenizer.eod_id, **({"bos": begin[0]} if begin else {})}
    return ids | ({"pad": tokenizer.bert_ids.pad} if tokenizer.bert_ids else {})


def _write_tokenizer(saved: SavedModel, own: Tokenizer, folder: Path) -> None:
    """The files that a tokenizer was read from; of one of ours, also what transformers loads."""
    template = template_of(saved.checkpoint)
    if own.is_ours:
        begins = not saved.config.resets_at_document_end
        length = saved.config.batch.sequence_length
        write_tokenizer(folder, own, length, begins=begins, template=template)
    else:
        own.write_original(folder)
        write_template(folder, own, template)


def _write_weights(saved: SavedModel, architecture: Architecture, folder: Path, most: int) -> int:
    mappings = list(architecture.links(saved.config, saved.vocab_size))
    checkpoint = saved.checkpoint
    if wrong := {mapping.key for mapping in mappings} ^ set(checkpoint.keys("weights")):
        raise IntegrityError(f"{checkpoint.path}: its config and its tensors disagree on {min(wrong)}")
    sources = [source for mapping in mappings for source in _sources(checkpoint, mapping)]
    dtype = sources[0].dtype
    sources += [
        TensorSource(name, shape, dtype, lambda shape=shape: torch.zeros(shape, dtype=dtype))  # type: ignore[misc]
        for name, shape in architecture.zeros(saved.config)
    ]
    with Progress("writing weights", sum(source.size for source in sources), "B") as progress:
        return write_shards(folder, sources, most, progress.advance)


def _sources(checkpoint: Checkpoint, link: ParamMapping) -> Iterator[TensorSource]:
    """Their tensors, each made from ours when it is written."""
    dtype = DTYPES[checkpoint.index[link.key].dtype]
    for number, (name, shape) in enumerate(zip(link.names, link.shapes, strict=True)):
        yield TensorSource(
            name,
            shape,
            dtype,
            lambda number=number: link.split(checkpoint.read(link.key))[number],  # type: ignore[misc]
        )


def _write_config(
    saved: SavedModel, architecture: Architecture, ids: Mapping[str, int], folder: Path
) -> None:
    import transformers

    class_name = architecture.class_of(saved.config)
    kind: Any = getattr(transformers, class_name).config_class
    arguments = architecture.their_config(saved.config, saved.vocab_size, ids)
    dtype = "bfloat16" if saved.config.precision == "bf16" else "float32"
    kind(**arguments, architectures=[class_name], dtype=dtype).save_pretrained(folder)
    if architecture.generates and ids:
        generation = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=ids.get("bos"), eos_token_id=ids["eos"], pad_token_id=ids["eos"]
        )
        generation.save_pretrained(folder)
