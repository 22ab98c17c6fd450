"""What a config asks for and its run never reaches.

That is legal, since a run may be a trial or the first part of a longer one. `pretrain check`, `train` and
`submit` report it.
"""

from collections.abc import Iterator

from pretrain.config import derived
from pretrain.config.sections import Config, CorpusConfig, DescentConfig, GanConfig
from pretrain.config.stages import tokens_until


def unreached(config: Config) -> Iterator[tuple[str, str]]:
    """Each key that has no effect, or not its whole effect, within `run.steps`, with what happens instead."""
    steps = config.run.steps
    for key, every, instead in (
        ("checkpoint.every", config.checkpoint.every, "the end of the run alone is saved"),
        ("checkpoint.keep_every", config.checkpoint.keep_every, "no checkpoint is kept for ever"),
        ("eval.every", config.eval.every, "the run validates at its end alone"),
        (
            "health.replica_check_every",
            config.health.replica_check_every,
            "ranks are compared before checkpoints alone",
        ),
    ):
        if every is not None and every > steps:
            yield key, f"{every} is beyond run.steps {steps}: {instead}"
    if isinstance(config, DescentConfig):
        yield from _rate(config)
        yield from _spikes(config)
    if isinstance(config, GanConfig):
        yield from _gan(config)


def _rate(config: DescentConfig) -> Iterator[tuple[str, str]]:
    """The first length that reaches beyond the end: if the warm-up does not end, no decay begins."""
    steps, schedule, unit = config.run.steps, config.schedule, "steps"
    warmup = ("schedule.warmup_steps", schedule.warmup_steps)
    decay = ("schedule.decay_steps", derived.decay_steps(config))
    if isinstance(config, CorpusConfig) and config.schedule.decay_tokens is not None:
        steps, unit = tokens_until(config, steps), "tokens"
        warmup = ("schedule.warmup_tokens", config.schedule.warmup_tokens or 0)
        decay = ("schedule.decay_tokens", config.schedule.decay_tokens)
    if warmup[1] >= steps:
        text = f"the run ends after {steps:,} {unit} of a warm-up over {warmup[1]:,}"
        yield warmup[0], f"{text}, and no decay begins"
    elif schedule.kind in ("cosine", "linear") and decay[1] > steps:
        text = f"the run ends after {steps:,} {unit} of a decay over {decay[1]:,}"
        yield decay[0], f"{text}: the rate does not reach {derived.min_lr(config):g}"


def _spikes(config: DescentConfig) -> Iterator[tuple[str, str]]:
    window, steps = derived.spike_window(config), config.run.steps
    asked = config.health.spike_window is not None or config.health.on_spike == "rollback"
    if asked and window >= steps:
        yield (
            "health.spike_window",
            f"the first {window} steps have no verdict, and the run has {steps}: no loss is judged a spike",
        )


def _gan(config: GanConfig) -> Iterator[tuple[str, str]]:
    updates, every = config.run.steps * config.loss.discriminator_steps, config.loss.penalty_every
    if every is not None and every >= updates:
        text = f"{every} is no less than the {updates} updates of D in the run: the first alone has penalties"
        yield "loss.penalty_every", text
    decay, steps = config.model.ema_decay, config.run.steps
    if (at_end := steps / (9 + steps)) < decay:  # as gan.ema has it after the last step
        yield (
            "model.ema_decay",
            f"is smaller in early steps, and does not reach {decay:g} by step {steps:,}: {at_end:.4g} there",
        )
