"""Which keys of a config may change when a run is resumed, and why; everything else must agree.

One table decides. A key that no rule names must agree, so that a new key is safe until somebody has thought
about it. Paths of data may change because the fingerprints of what they hold are compared instead
(`pretrain.run`). The lengths of a run and of its decay may change as long as no step that is done would have
had another learning rate.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from data_tools.counts import are, counted
from pretrain.config.derived import final_decay
from pretrain.config.node import dotted
from pretrain.config.schema import leaf_keys
from pretrain.kinds import RECORDS, kind_named


@dataclass(frozen=True)
class Rule:
    """What a resume may do to the keys that match a pattern."""

    pattern: str
    may_change: bool
    reason: str
    kept: str = ""
    """Where a path may become another path: why it may not come or go."""


SCORES = "validation losses of one run must be comparable"

RULES = (
    Rule("run.dir", True, "a run folder may be moved"),
    Rule("run.resume", True, "says how to start, not what to train"),
    Rule("run.steps", True, "as long as the learning rates of steps that are done do not depend on it"),
    Rule("run.seed", False, "decides the initial weights, the order of samples and dropout"),
    Rule("model.init_from", True, "that run may be moved: its id is compared"),
    Rule("model.*", False, "the checkpoint holds another model"),
    Rule("batch.micro_size", True, "the loss is weighted by tokens, however a batch is cut"),
    Rule(
        "batch.global_size", False, "step t covers samples t*G to (t+1)*G: samples would be lost or repeated"
    ),
    Rule(
        "batch.sequence_length", False, "samples are cut at this length: the order of the data would change"
    ),
    Rule("parallel.*", True, "any layout loads a checkpoint of any other"),
    Rule("optimizer.*", False, "the optimizer's state was made with these"),
    Rule(
        "schedule.sequence_length.*.micro_size",
        True,
        "the loss is weighted by tokens, however a batch is cut",
    ),
    Rule("schedule.sequence_length*", False, "samples would be lost or repeated"),
    Rule("schedule.batch_size*", False, "samples would be lost or repeated"),
    Rule("schedule.decay_steps", True, "as long as the learning rates of steps that are done stay"),
    Rule("schedule.*", False, "the learning rate would jump"),
    Rule("loss.*", False, "decides what both networks are trained to do"),
    Rule("data.text", False, "other columns are other examples"),
    Rule("data.text_pair", False, "other columns are other examples"),
    Rule("data.label", False, "another column has other classes"),
    Rule("data.labels*", False, "the order of the classes decides what each output means"),
    Rule("data.word_column", False, "other columns are other examples"),
    Rule("data.label_column", False, "another column has other classes"),
    Rule("data.prompt", False, "other keys are other conversations"),
    Rule("data.response", False, "other keys are other conversations"),
    Rule("data.messages", False, "other keys are other conversations"),
    Rule("data.chat_template", True, "the file may be moved: what it makes of the conversations is compared"),
    Rule("data.too_long", False, "decides which tokens are trained on"),
    Rule("data.packing", False, "other sequences are other samples"),
    Rule("data.train.*.path", True, "shards may be moved: their fingerprint is compared"),
    Rule("data.train.*.weight", False, "the mix of sources decides the order of samples"),
    Rule("data.train", True, "a file of examples may be moved: its fingerprint is compared"),
    Rule("data.validation", True, "a file of examples may be moved: its fingerprint is compared", SCORES),
    Rule("data.validation.*", True, "shards may be moved: their fingerprint is compared", SCORES),
    Rule("data.validation_fraction", False, "decides which part of a source is trained on"),
    Rule("data.tokenizer", True, "the tokenizer may be moved: its fingerprint is compared"),
    Rule("data.cache_dir", True, "where shards are kept changes none of them"),
    Rule("data.cache_bytes", True, "how many shards are kept changes none of them"),
    Rule("data.shift", False, "changes what training images look like"),
    Rule("data.reset_at_document_end", False, "changes what attention sees"),
    Rule("data.nsp", False, "another task has other samples and another head"),
    Rule("data.mask_probability", False, "decides which tokens are predicted"),
    Rule("data.masking", False, "decides which tokens are predicted"),
    Rule("data.max_span", False, "decides which tokens are predicted"),
    Rule("data.short_sequence_probability", False, "decides the segments of each sample"),
    Rule("precision", False, "changes the arithmetic in mid-run"),
    Rule("train.*", True, "says what to measure, not what to train"),
    Rule("checkpoint.*", True, "says when to save, not what to train"),
    Rule("eval.max_windows", False, SCORES),
    Rule("eval.*", True, "says when to validate and what to draw, not what to train"),
    Rule("tracking.*", True, "says where metrics go, not what to train"),
    Rule("health.*", True, "says what to do about bad numbers, not what to train"),
    Rule("slurm.*", True, "says where a run runs, not what to train"),
)

ABSENT = "(absent)"
Config = Mapping[str, object]
"""A config as its resolved file has it: sections of keys, or dotted keys."""


def flatten(config: Config) -> dict[str, object]:
    """Dotted keys of a config, list items by their position (`data.train.0.path`)."""
    return dict(_leaves("", config))


def _leaves(prefix: str, tree: object) -> list[tuple[str, object]]:
    if isinstance(tree, Mapping):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and tree:
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return [(prefix, tree)]
    return [leaf for key, value in items for leaf in _leaves(f"{prefix}.{key}" if prefix else key, value)]


def rule_for(key: str) -> Rule:
    """The first rule that matches a dotted key; a key without one must agree."""
    for rule in RULES:
        if fnmatchcase(key, rule.pattern):
            return rule
    return Rule(key, False, "not known to be safe to change")


def changed_keys(old: Config, new: Config) -> dict[str, tuple[object, object]]:
    """Every key whose value differs, with both values; ABSENT for a key that one side lacks.

    A run that began before there was a key has trained as the key's default has it.
    """
    before, after = flatten(old), flatten(new)
    missing = _defaults(str(after.get("model.kind"))) if after.keys() - before.keys() else {}
    pairs = {
        key: (before.get(key, missing.get(key, ABSENT)), after.get(key, ABSENT))
        for key in sorted({*before, *after})
    }
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


@cache
def _defaults(kind: str) -> Mapping[str, object]:
    """The keys of a kind that need not be given, with their defaults."""
    if kind not in RECORDS:
        return {}
    fields = {dotted(path): field for path, field in leaf_keys(kind_named(kind).config)}
    return {key: field.get_default() for key, field in fields.items() if not field.is_required()}


def compatible(old: Config, new: Config, saved: Collection[int] = ()) -> list[str]:
    """Why a run that began with `old` may not go on with `new`: one line a key, none if it may.

    Args:
        old: what the run began with.
        new: what it is to go on with.
        saved: steps of which the run has checkpoints.
    """
    problems = [
        f"{key}: {before!r} in the run, {after!r} now ({reason})"
        for key, (before, after) in changed_keys(old, new).items()
        if (reason := _reason(key, before, after))
    ]
    return problems + _length_problem(flatten(old), flatten(new), saved)


def _reason(key: str, before: object, after: object) -> str:
    """Why a key may not change so; "" if it may."""
    rule = rule_for(key)
    if not rule.may_change:
        return rule.reason
    return rule.kept if {type(before), type(after)} != {str} or ABSENT in (before, after) else ""


def _length_problem(old: dict[str, object], new: dict[str, object], saved: Collection[int]) -> list[str]:
    """Another `run.steps` or `schedule.decay_steps` that comes too late, with the way out that there is."""
    done, steps = max(saved, default=0), _number(new, "run.steps")
    if steps is not None and steps < done:
        text = f"{counted(done, 'step')} {are(done)} done; set it to {done} or more"
        return [_changed("run.steps", old, new, text + _earlier(saved, steps))]
    lengths = [key for key in ("run.steps", "schedule.decay_steps") if not _same(old.get(key), new.get(key))]
    kind, first = new.get("schedule.kind"), min(_decay(old)[0], _decay(new)[0])
    if not lengths or kind != old.get("schedule.kind") or _decay(old) == _decay(new) or done <= first:
        return []
    text = f"with schedule.kind {kind} steps {first + 1} to {done}, which are done, have other learning rates"
    if kind != "wsd" and new.get("schedule.decay_steps") is None:
        text += f"; schedule.decay_steps={_decay(old)[1]} keeps them, and goes on at schedule.min_lr"
    return [_changed(lengths[0], old, new, text + _earlier(saved, first))]


def _decay(config: dict[str, object]) -> tuple[int, int]:
    """The step, from 0, at which the decay begins, and its length or end; no two numbers where none follow
    from `run.steps` or `schedule.decay_steps`."""
    kind, given = config.get("schedule.kind"), _number(config, "schedule.decay_steps")
    steps = _number(config, "run.steps") or 0
    if kind == "wsd":
        length = final_decay(steps, given)
        return steps - length, length
    if kind not in ("cosine", "linear") or config.get("schedule.decay_tokens") is not None:
        return 0, 0
    return _number(config, "schedule.warmup_steps") or 0, given or steps


def _earlier(saved: Collection[int], most: int) -> str:
    """How to go on from a step before the one that is too late."""
    if earlier := [step for step in saved if step <= most]:
        return f"; to go on from step {max(earlier)}, remove the checkpoints after step-{max(earlier):08d}"
    return f"; there is no checkpoint of step {most} or before"


def _changed(key: str, old: Mapping[str, object], new: Mapping[str, object], reason: str) -> str:
    return f"{key}: {old.get(key, ABSENT)!r} in the run, {new.get(key, ABSENT)!r} now ({reason})"


def _number(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) else None


def _same(before: object, after: object) -> bool:
    """Equal as values: YAML 1.1 reads 6e-4 as text and 0.0006 as a number. Two texts are no numbers."""
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, str) is isinstance(after, str):
        return before == after
    try:
        return float(str(before)) == float(str(after))
    except ValueError:
        return before == after
