"""Checks that two models are the same function, by their logits for the same tokens: ours and transformers'.

Both compute in fp32, whatever the weights are stored in. Neither is in memory as a whole: ours has one layer
at a time (`layered`), theirs is mapped from its files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
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
WINDOW = 8
"""Tokens of a window in the proof, so that it hides some of `LENGTH`."""


def prove(
    architecture: Architecture,
    config: TextConfig,
    vocab_size: int,
    read: Read,
    folder: Path,
    drawn: Mapping[str, Tensor] = MappingProxyType({}),
) -> float:
    """Compare the two models on random tokens.

    Args:
        architecture: the layout that the two have in common.
        config: of our model.
        vocab_size: ids of the tokenizer, without padding.
        read: returns our weights.
        folder: what transformers loads.
        drawn: weights that the folder does not have, by their names there.

    Tokens stand at positions from 0 to the last that the model is made for, and a window of attention is
    smaller in both models, so that positions and windows show in the logits of a few tokens.

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
    inputs = {"input_ids": tokens_BS, "attention_mask": torch.ones_like(tokens_BS)}
    positions_S = _positions(length, config.batch.sequence_length)
    inputs["position_ids"] = positions_S.expand(ROWS, -1)
    if architecture.reads_padding:
        inputs |= {"token_type_ids": types_BS, "attention_mask": real_BS.long()}
    class_name = architecture.class_of(config)
    config, changed = _small_window(config)
    with torch.no_grad():
        model = _their_model(folder, class_name, drawn, changed)
        theirs = _their_logits(model, inputs, real_BS if architecture.reads_padding else None)
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world, _own_groups():
            chunk = build_layered(config, vocab_size, read, world, architecture.family).chunks[0]
            if (rotary := getattr(chunk, "rotary_pos_emb", None)) is not None:
                chunk.rotary_pos_emb = _At(rotary, positions_S)
            ours = architecture.logits(chunk, tokens_BS, positions_S, types_BS, real_BS)
    width = max(vocab_size, len(architecture.labels or ()))
    return _difference([each[..., :width] for each in ours], theirs, folder)


def _positions(length: int, count: int) -> Tensor:
    """[length]: half of them the first ones, the others spread over all `count`."""
    near = length // 2
    return torch.cat([torch.arange(near), torch.linspace(near, count - 1, length - near).long()])


class _At(torch.nn.Module):
    """Rotary angles at some positions, where a model asks for those of the first ones."""

    def __init__(self, inner: Any, positions_S: Tensor) -> None:
        super().__init__()
        self.inner, self.positions_S = inner, positions_S
        self.get_rotary_seq_len = inner.get_rotary_seq_len

    def forward(self, *_length: Any, **_options: Any) -> Tensor:
        angles: Tensor = self.inner(int(self.positions_S[-1]) + 1)
        return angles[self.positions_S]


@contextmanager
def _own_groups() -> Iterator[None]:
    """Destroy megatron's groups at the end of the block."""
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def _small_window(config: TextConfig) -> tuple[TextConfig, dict[str, int]]:
    """The config with a smaller window, if it has one, and what to change in theirs."""
    window = getattr(config.model, "window", None)
    if window is None:
        return config, {}
    window = min(window, WINDOW)
    model = config.model.model_copy(update={"window": window})
    return config.model_copy(update={"model": model}), {"sliding_window": window}


def _their_model(
    folder: Path, class_name: str, drawn: Mapping[str, Tensor], changed: Mapping[str, int]
) -> Any:
    """As transformers loads it. Raises IntegrityError if it lacks more than what was drawn."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind = getattr(transformers, class_name)
    model, found = kind.from_pretrained(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        attn_implementation="eager",  # the only one that has every option
        **changed,
    )
    if drawn:
        found["missing_keys"] = {*found["missing_keys"]} & {*model.load_state_dict(drawn, strict=False)[0]}
    wrong = [
        f"{what.replace('_', ' ')}: {', '.join(map(str, names))}" for what, names in found.items() if names
    ]
    if wrong:
        raise IntegrityError(f"{folder}: transformers loads {class_name} with {'; '.join(wrong)}")
    _compute_in_fp32(model.eval())
    return model


def _their_logits(model: Any, inputs: dict[str, Tensor], real_BS: Tensor | None) -> list[Tensor]:
    """[rows, V] of the tokens, or [B, classes] of texts, and, for a BERT with pairs, [B, 2].

    `real_BS` says which tokens of a BERT count.
    """
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
