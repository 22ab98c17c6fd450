"""Checks that two models are the same function, by their logits for the same tokens: ours and transformers'.

Both compute in fp32, whatever the weights are stored in. Neither is in memory as a whole: ours has one layer
at a time (`layered`), theirs is mapped from its files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from pretrain.config.sections import TextConfig
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed
from pretrain.errors import IntegrityError
from pretrain.hf.architecture import Architecture, of_real_tokens
from pretrain.hf.layered import Read, build_layered

TOLERANCE = 5e-5
"""Largest difference of two logits, relative to the largest logit if that is above 1. Rounding alone can make
1.5e-5: seen on a processor without AVX-512, where the same sums have another order."""
ROWS, LENGTH, SEED = 2, 32, 20_240


def prove(architecture: Architecture, config: TextConfig, vocab_size: int, read: Read, folder: Path) -> float:
    """Compare the two models on random tokens.

    Args:
        architecture: the layout that the two have in common.
        config: of our model.
        vocab_size: ids of the tokenizer, without padding.
        read: returns our weights.
        folder: what transformers loads.

    Returns:
        The largest difference, measured as for `TOLERANCE`.

    Raises:
        IntegrityError: the logits differ, or transformers does not find what it needs.
    """
    length = min(LENGTH, config.batch.sequence_length)
    generator = torch.Generator().manual_seed(SEED)
    tokens_BS = torch.randint(0, vocab_size, (ROWS, length), generator=generator)
    types_BS = (torch.arange(length) > length // 2).long().expand(ROWS, -1)
    real_BS = torch.arange(length) < torch.tensor([[length], [max(1, length - length // 4)]])
    inputs = {"input_ids": tokens_BS}
    if architecture.reads_padding:
        inputs |= {"token_type_ids": types_BS, "attention_mask": real_BS.long()}
    class_name = architecture.class_of(config)
    with torch.no_grad():
        theirs = _their_logits(folder, class_name, inputs, real_BS if architecture.reads_padding else None)
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world, _own_groups():
            chunk = build_layered(config, vocab_size, read, world, architecture.family).chunks[0]
            ours = architecture.logits(chunk, tokens_BS, types_BS, real_BS)
    width = max(vocab_size, len(architecture.labels or ()))
    return _difference([each[..., :width] for each in ours], theirs, folder)


@contextmanager
def _own_groups() -> Iterator[None]:
    """Destroy megatron's groups at the end of the block."""
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def _their_logits(
    folder: Path, class_name: str, inputs: dict[str, Tensor], real_BS: Tensor | None
) -> list[Tensor]:
    """[rows, V] of the tokens, or [B, classes] of texts, and, for a BERT with pairs, [B, 2].

    `real_BS` says which tokens of a BERT count.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind = getattr(transformers, class_name)
    model, found = kind.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    wrong = [
        f"{what.replace('_', ' ')}: {', '.join(map(str, names))}" for what, names in found.items() if names
    ]
    if wrong:
        raise IntegrityError(f"{folder}: transformers loads {class_name} with {'; '.join(wrong)}")
    _compute_in_fp32(model.eval())
    answer = model(**inputs)
    if real_BS is None:
        return [answer.logits.flatten(0, 1)]
    logits_BSV = answer.prediction_logits if "prediction_logits" in answer else answer.logits
    logits = [of_real_tokens(logits_BSV, real_BS)]
    return [*logits, answer.seq_relationship_logits] if "seq_relationship_logits" in answer else logits


def _compute_in_fp32(model: torch.nn.Module) -> None:
    """Widen the weights of each module to fp32 only while it runs."""

    def widen(module: Any, _inputs: Any) -> None:
        module.kept = {name: value.data for name, value in module.named_parameters(recurse=False)}
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()

    def narrow(module: Any, _inputs: Any, _output: Any) -> None:
        for name, value in module.named_parameters(recurse=False):
            value.data = module.kept[name]
        del module.kept

    for module in model.modules():
        if any(value.dtype != torch.float32 for value in module.parameters(recurse=False)):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)


def _difference(ours: list[Tensor], theirs: list[Tensor], folder: Path) -> float:
    worst = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape:
            raise IntegrityError(
                f"{folder}: logits are {list(other.shape)} there and {list(mine.shape)} here"
            )
        difference = float((mine - other).abs().max() / other.abs().max().clamp(min=1.0))
        if not difference <= TOLERANCE:  # written so that NaN fails, too
            raise IntegrityError(
                f"{folder}: the logits of the two models differ by {difference:.2g}, more than {TOLERANCE}; "
                "nothing was written"
            )
        worst = max(worst, difference)
    return worst
