"""`pretrain import`: a transformers folder as a run with a checkpoint of step 0.

Such a run can be scored, generate text, and serve as `model.init_from`. Each tensor is read, assembled,
written and released; then the checkpoint is loaded and its logits are compared with those of transformers.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from data_tools.bounded import read_json
from data_tools.tokenizers.hf_files import CONFIG
from data_tools.typed import misread
from pretrain.checkpoint import open_checkpoint
from pretrain.checkpoint.layout import CHECKPOINTS, step_name
from pretrain.checkpoint.new_folder import new_folder
from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.rules import violations
from pretrain.errors import UserError
from pretrain.gpt.chat.template import FILE, ChatTemplate
from pretrain.hf.architecture import Architecture
from pretrain.hf.foreign_tokenizer import FoundTokenizer, find_tokenizer
from pretrain.hf.library import require_transformers
from pretrain.hf.new_run import write_run
from pretrain.hf.param_mapping import ParamMapping
from pretrain.hf.proof import prove
from pretrain.hf.registry import ARCHITECTURES
from pretrain.hf.shards import TensorFolder
from pretrain.hf.tokenizer import template_difference
from pretrain.kinds import kind_named
from pretrain.megatron.init import initial_weight

NO_DATA = "imported-without-data"
"""In place of the shards of a run that was trained elsewhere."""
MOST_LABELS = 100_000
OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of norms in checkpoints from before 2019."""


def import_command(folder: str, output: str) -> None:
    """Write a run folder with the weights and, if possible, the tokenizer of a transformers folder.

    Args:
        folder: what transformers loads: config.json, safetensors.
        output: the new run folder.

    Raises:
        UserError: the model has an architecture or an option that ours does not have, or tensors are missing,
            superfluous or of another shape.
        IntegrityError: a file is damaged, or the logits of the two models differ.
    """
    require_transformers("pretrain import")
    source = Path(folder)
    their_config, architecture = _read_config(source)
    tensors = TensorFolder(source)
    names = _plain_names(tensors, architecture)
    config = _our_config(output, architecture, their_config, names, tensors)
    mappings = list(architecture.links(config, their_config.vocab_size))
    heads = architecture.lacking(their_config.architectures[0])
    drawn = {link.key: link for link in mappings if link.key.startswith(heads or ("\0",))}
    _check(tensors, names, [link for link in mappings if link.key not in drawn], architecture.copies(config))
    found = find_tokenizer(source, their_config.vocab_size)
    template, left = _template(source, found)
    class_name = architecture.class_of(config)
    with new_folder(output) as run:
        weights = list(_sources(tensors, names, mappings, config, drawn))
        vocab_size = their_config.vocab_size
        write_run(run, folder, config, vocab_size, weights, found.tokenizer, template, found.files)
        checkpoint = open_checkpoint(run / CHECKPOINTS / step_name(0))
        new = {
            name: part
            for key, link in drawn.items()
            for name, part in zip(link.names, link.split(checkpoint.read(key)), strict=True)
        }
        new |= {copy: new[name] for copy, name in architecture.copies(config).items() if name in new}
        difference = prove(architecture, config, vocab_size, checkpoint.read, source, new)
    what = "with" if found.tokenizer else "without"
    print(
        f"{output}: {class_name} as model.kind {config.model.kind}, {what} tokenizer; logits differ by "
        f"{difference:.1e} from those of transformers"
    )
    if drawn:
        what = ", ".join(head.rstrip(".") for head in heads)
        print(f"drawn at random, since a {their_config.architectures[0]} has none: {what}")
    if found.tokenizer is None:
        print(f"no tokenizer came along: {found.why}")
    for note in found.notes:
        print(note)
    if left:
        print(left)


def _template(folder: Path, found: FoundTokenizer) -> tuple[ChatTemplate | None, str]:
    """The chat template, or why it stays behind."""
    path = folder / FILE
    template = ChatTemplate.read(path) if path.is_file() else _configured_template(folder / CONFIG)
    if template is None:
        return None, ""
    why = "it goes with its tokenizer"
    if found.tokenizer is not None:
        try:
            why = "" if found.is_ours else template_difference(folder, found.tokenizer, template)
        except UserError as error:
            why = str(error)
    return (None, f"{template.where} did not come along: {why}") if why else (template, "")


def _configured_template(path: Path) -> ChatTemplate | None:
    """The template that a tokenizer_config.json holds; of several, the one that is called default."""
    if not path.is_file():
        return None
    try:
        found = read_json(path).get("chat_template")
    except (ValueError, AttributeError):
        raise UserError(f"{path}: is no JSON object") from None
    if isinstance(found, list):
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    return ChatTemplate(found, str(path)) if isinstance(found, str) else None


def _read_config(folder: Path) -> tuple[Any, Architecture]:
    """A transformers config, and its architecture."""
    import transformers

    path = folder / "config.json"
    try:
        values = read_json(path)
        wanted = (values.get("architectures") or [None])[0]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; a transformers folder has one") from None
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: is no config of transformers") from None
    labels = values.get("num_labels")
    if isinstance(labels, int) and labels > MOST_LABELS:  # transformers would create a name for each
        raise UserError(f"{path}: num_labels is {labels}; at most {MOST_LABELS:,} are supported")
    for architecture in ARCHITECTURES:
        if wanted in architecture.classes:
            kind = getattr(transformers, wanted).config_class
            if values.get("model_type") != kind.model_type:
                raise UserError(
                    f"{path}: model_type {values.get('model_type')!r} is not {kind.model_type!r}, "
                    f"that of {wanted}"
                )
            if values.get("quantization_config"):
                raise UserError(f"{path}: quantization_config: quantised weights are not supported")
            try:
                architecture.require_known(values)
                return kind.from_dict(values), architecture
            except Exception as error:
                raise UserError(f"{path}: {str(error).strip().splitlines()[-1]}") from None
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.classes)
    told = " ".join(str(wanted).split())[:60]
    raise UserError(f"{path}: architecture {told} is not supported; {known} are")


def _plain_names(tensors: TensorFolder, architecture: Architecture) -> dict[str, str]:
    """The name in a current model with its head -> the name in the folder."""
    found = {}
    bare = not any(name.startswith(architecture.base) for name in tensors.tensors)
    for name in tensors.tensors:
        if name.endswith(architecture.ignored or ("\0",)):
            continue
        plain = f"{architecture.base}{name}" if bare else name
        for old, new in OLD_NAMES:
            plain = plain.removesuffix(old) + new if plain.endswith(old) else plain
        found[plain] = name
    return found


def _our_config(
    output: str, architecture: Architecture, theirs: Any, names: Mapping[str, str], tensors: TensorFolder
) -> Any:
    try:
        keys = architecture.our_keys(theirs, frozenset(names))
    except UserError as error:
        raise UserError(f"{tensors.folder / 'config.json'}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        told = ascii(misread(error))[:200]
        raise UserError(f"{tensors.folder / 'config.json'}: a value is of no use: {told}") from None
    dtypes = {tensors.tensors[name].dtype for name in names.values()}
    if strange := dtypes - {"F32", "F16", "BF16"}:
        name = next(n for n in names.values() if tensors.tensors[n].dtype in strange)
        raise UserError(
            f"{tensors.tensors[name].file}: {name} is {min(strange)}; weights are F32, F16 or BF16"
        )
    tree: dict[str, Any] = {
        "run": {"dir": output, "steps": 1},
        "optimizer": {"lr": 1e-4},
        "precision": "bf16" if dtypes == {"BF16"} else "fp32",
        **keys,
        "batch": {"global_size": 1, **keys["batch"]},
        "data": {"train": NO_DATA, **keys.get("data", {})},
    }
    where = f"{tensors.folder / 'config.json'}: as a config of ours"
    try:
        config = kind_named(architecture.kind).config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for violation in violations(config, None):
        raise UserError(f"{where}, {violation.key}: {violation.message}")
    return config


def _check(
    tensors: TensorFolder, names: Mapping[str, str], links: Sequence[ParamMapping], copies: Mapping[str, str]
) -> None:
    """Refuse missing and superfluous tensors, and shapes that the config does not have."""
    wanted = {
        name: shape for mapping in links for name, shape in zip(mapping.names, mapping.shapes, strict=True)
    }
    if missing := [name for name in wanted if name not in names]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{tensors.folder}: holds no tensor {missing[0]} {list(wanted[missing[0]])}{more}, which its "
            "config.json speaks of"
        )
    for plain, name in names.items():
        found = tensors.tensors[name]
        original = copies.get(plain)
        if original is not None:
            if not torch.equal(tensors.read(name), tensors.read(names[original])):
                raise UserError(f"{found.file}: {name} differs from {original}, to which config.json ties it")
        elif plain not in wanted:
            raise UserError(
                f"{found.file}: {name} {list(found.shape)} has no place in the model of config.json"
            )
        elif found.shape != wanted[plain]:
            raise UserError(
                f"{found.file}: {name} is {list(found.shape)}; by config.json it is {list(wanted[plain])}"
            )


def _sources(
    tensors: TensorFolder,
    names: Mapping[str, str],
    links: Sequence[ParamMapping],
    config: Any,
    drawn: Container[str],
) -> Iterator[TensorSource]:
    """Our logical tensors, each made when it is written: from theirs, or drawn as for a new run."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for link in links:
        with torch.device("meta"):
            shape = tuple(link.join([torch.empty(shape) for shape in link.shapes]).shape)

        def make(link: ParamMapping = link, shape: tuple[int, ...] = shape) -> Tensor:
            if link.key in drawn:
                return initial_weight(link.key, shape, config.model, config.run.seed).to(dtype)
            return link.join([tensors.read(names[name]).to(dtype) for name in link.names])

        yield TensorSource(link.key, shape, dtype, make)
