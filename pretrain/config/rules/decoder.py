"""Rules between keys of the shape of a GPT."""

from pretrain.config import derived
from pretrain.config.rule import Rule, Setup, unless
from pretrain.config.sections import DecoderConfig, DecoderModelConfig

DecoderRule = Rule[DecoderConfig]
DecoderSetup = Setup[DecoderConfig]


def _model(setup: DecoderSetup) -> DecoderModelConfig:
    return setup.config.model


def _rotary(setup: DecoderSetup) -> bool:
    return _model(setup).position_embedding == "rotary"


def _by_turns(setup: DecoderSetup) -> bool:
    """Whether frequencies are scaled by how often they turn."""
    return _model(setup).rotary_scaling in ("llama3", "yarn")


def _turned(setup: DecoderSetup) -> int:
    return derived.rotary_size(_model(setup))


def _needs_rotary(key: str) -> DecoderRule:
    return unless(
        f"{key} needs rotary positions",
        f"model.{key}",
        lambda s: not _rotary(s),
        "has no effect with position_embedding learned; remove it, or set position_embedding: rotary",
    )


def _needs_turns(key: str) -> DecoderRule:
    return unless(
        f"{key} is for scaling by turns",
        f"model.{key}",
        lambda s: not _by_turns(s),
        "has no effect unless rotary_scaling is llama3 or yarn; remove it",
    )


ROTARY_RULES: tuple[DecoderRule, ...] = (
    _needs_rotary("rotary_fraction"),
    _needs_rotary("rotary_scaling"),
    Rule(
        name="rotary positions turn pairs",
        key="model.rotary_fraction",
        applies=lambda s: (
            _rotary(s) and (_model(s).head_size is not None or _model(s).rotary_fraction is not None)
        ),
        holds=lambda s: _turned(s) > 0 and _turned(s) % 2 == 0,
        message=lambda s: (
            f"rotary positions turn pairs of numbers, and {_model(s).rotary_fraction or 1:g} of a head of "
            f"{derived.head_size(_model(s))} is {_turned(s)}"
        ),
        remedies={
            "model.rotary_fraction": lambda s: (
                (n / derived.head_size(_model(s)) for n in (_turned(s) + 1, _turned(s) - 1) if n > 0)
                if _model(s).rotary_fraction
                else ()
            ),
            "model.head_size": lambda s: (
                (size + 1, size - 1)
                if (size := _model(s).head_size) and not _model(s).rotary_fraction
                else ()
            ),
        },
    ),
    unless(
        "a rotary factor needs a way of scaling",
        "model.rotary_scaling_factor",
        lambda s: _model(s).rotary_scaling is None,
        "has no effect without model.rotary_scaling; remove it, or say how frequencies are scaled",
    ),
    Rule(
        name="rotary scaling needs a factor",
        key="model.rotary_scaling",
        applies=lambda s: _model(s).rotary_scaling is not None,
        holds=lambda s: _model(s).rotary_scaling_factor is not None,
        message="{model.rotary_scaling} scales by model.rotary_scaling_factor, which is missing",
    ),
    Rule(
        name="scaling by turns needs an original length",
        key="model.rotary_scaling",
        applies=_by_turns,
        holds=lambda s: _model(s).rotary_original_length is not None,
        message="{model.rotary_scaling} counts turns within model.rotary_original_length, which is missing",
    ),
    _needs_turns("rotary_original_length"),
    _needs_turns("rotary_slow_turns"),
    _needs_turns("rotary_fast_turns"),
    unless(
        "only yarn sharpens attention",
        "model.rotary_attention_factor",
        lambda s: _model(s).rotary_scaling != "yarn",
        "has no effect unless rotary_scaling is yarn; remove it",
    ),
    Rule(
        name="slow is slower than fast",
        key="model.rotary_slow_turns",
        applies=_by_turns,
        holds=lambda s: derived.rotary_turns(_model(s))[0] < derived.rotary_turns(_model(s))[1],
        message=lambda s: "{:g} turns are not fewer than model.rotary_fast_turns {:g}".format(
            *derived.rotary_turns(_model(s))
        ),
    ),
)
RULES: tuple[DecoderRule, ...] = (
    *ROTARY_RULES,
    Rule(
        name="a norm of all heads is RMSNorm",
        key="model.qk_norm",
        applies=lambda s: _model(s).qk_norm == "whole",
        holds=lambda s: _model(s).normalization == "rmsnorm",
        message="whole is for normalization: rmsnorm alone; use qk_norm: head, or rmsnorm",
    ),
    Rule(
        name="a zero-centered norm is RMSNorm",
        key="model.zero_centered_norm",
        applies=lambda s: _model(s).zero_centered_norm,
        holds=lambda s: _model(s).normalization == "rmsnorm" and _model(s).qk_norm != "whole",
        message="is for normalization: rmsnorm alone, and not for qk_norm: whole",
    ),
    unless(
        "qkv_bias is for layers without biases",
        "model.qkv_bias",
        lambda s: _model(s).bias,
        "has no effect with model.bias true; remove it, or set model.bias: false",
    ),
    unless(
        "a pattern needs a window",
        "model.window_pattern",
        lambda s: _model(s).window is None,
        "has no effect without model.window; remove it, or set model.window",
    ),
    unless(
        "a window needs a layer",
        "model.window",
        lambda s: "window" not in (_model(s).window_pattern or ("window",)),
        "has no effect, since no layer of model.window_pattern has it; remove both",
    ),
    Rule(
        name="a pattern fits into the layers",
        key="model.window_pattern",
        applies=lambda s: _model(s).window_pattern is not None,
        holds=lambda s: len(_model(s).window_pattern or ()) <= _model(s).num_layers,
        message=lambda s: (
            f"a pattern of {len(_model(s).window_pattern or ())} layers is longer than model.num_layers "
            f"{_model(s).num_layers}"
        ),
    ),
)
