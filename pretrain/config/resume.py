"""Resume rules: which keys of a config may change when a run is resumed. `config.sections` says it beside
each key.

The lengths of a run and of its decay may change as long as no step that is done would have had another
learning rate.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import get_args

from pydantic.fields import FieldInfo

from data_tools.counts import are, counted
from pretrain.config.derived import final_decay
from pretrain.config.node import dotted
from pretrain.config.schema import is_list, keys_of, leaf_keys, section_of
from pretrain.config.sections.resume import Resume
from pretrain.config.sections.section import Section
from pretrain.kinds import RECORDS, kind_named

ABSENT = "(absent)"
Config = Mapping[str, object]
"""A config as in its resolved file: sections of keys, or dotted keys."""


def flatten(config: Config) -> dict[str, object]:
    """Dotted keys of a config; list items by their position (`data.train.0.path`)."""
    return dict(_leaves("", config))


def _leaves(prefix: str, tree: object) -> list[tuple[str, object]]:
    if isinstance(tree, Mapping):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and tree:
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return [(prefix, tree)]
    return [leaf for key, value in items for leaf in _leaves(f"{prefix}.{key}" if prefix else key, value)]


def rule_for(kind: str, key: str) -> Resume:
    """What a resume may do to a dotted key of a kind. A key without a rule must stay the same."""
    found = _find(kind_named(kind).config, key.split(".")) if kind in RECORDS else None
    return found or Resume(False, "not known to be safe to change")


def _find(section: type[Section], path: Sequence[str]) -> Resume | None:
    field = keys_of(section).get(path[0])
    if field is None:
        return section.RESUME
    found, inner = said(field), section_of(field)
    if found is None and inner is not None:
        rest = path[2 if is_list(field) else 1 :]
        found = _find(inner, rest) if rest else inner.RESUME
    return found or section.RESUME


def said(field: FieldInfo) -> Resume | None:
    """The rule beside a field, or within its type."""

    def search(metadata: Iterable[object], annotation: object) -> Resume | None:
        own = next((each for each in metadata if isinstance(each, Resume)), None)
        parts = (search(getattr(part, "__metadata__", ()), part) for part in get_args(annotation))
        return own or next((part for part in parts if part), None)

    return search(field.metadata, field.annotation)


def changed_keys(old: Config, new: Config) -> dict[str, tuple[object, object]]:
    """Every key whose value differs, with both values; ABSENT for a key that one side lacks.

    A run that is older than a key was trained with the key's default.
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
    """The keys of a kind that may be left out, with their defaults."""
    if kind not in RECORDS:
        return {}
    fields = {dotted(path): field for path, field in leaf_keys(kind_named(kind).config)}
    return {key: field.get_default() for key, field in fields.items() if not field.is_required()}


def compatible(old: Config, new: Config, saved: Collection[int] = ()) -> list[str]:
    """Why a run that began with `old` may not resume with `new`: one line a key, none if it may.

    Args:
        old: what the run began with.
        saved: steps of which the run has checkpoints.
    """
    problems = [
        f"{key}: {before!r} in the run, {after!r} now ({reason})"
        for key, (before, after) in changed_keys(old, new).items()
        if (reason := _reason(rule_for(str(flatten(new).get("model.kind")), key), before, after))
    ]
    return problems + _length_problem(flatten(old), flatten(new), saved)


def _reason(rule: Resume, before: object, after: object) -> str:
    """Why a key may not change in this way; "" if it may."""
    if not rule.may_change:
        return rule.reason
    return rule.kept if {type(before), type(after)} != {str} or ABSENT in (before, after) else ""


def _length_problem(old: dict[str, object], new: dict[str, object], saved: Collection[int]) -> list[str]:
    """The problem if `run.steps` or `schedule.decay_steps` changes too late, and the way to resume."""
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
    """The step, from 0, at which the decay begins, and its length or end.

    No two numbers if they do not depend on `run.steps` or `schedule.decay_steps`.
    """
    kind, given = config.get("schedule.kind"), _number(config, "schedule.decay_steps")
    steps = _number(config, "run.steps") or 0
    if kind == "wsd":
        length = final_decay(steps, given)
        return steps - length, length
    if kind not in ("cosine", "linear") or config.get("schedule.decay_tokens") is not None:
        return 0, 0
    return _number(config, "schedule.warmup_steps") or 0, given or steps


def _earlier(saved: Collection[int], most: int) -> str:
    """How to resume from a step before the one that is too late."""
    if earlier := [step for step in saved if step <= most]:
        return f"; to go on from step {max(earlier)}, remove the checkpoints after step-{max(earlier):08d}"
    return f"; there is no checkpoint of step {most} or before"


def _changed(key: str, old: Mapping[str, object], new: Mapping[str, object], reason: str) -> str:
    return f"{key}: {old.get(key, ABSENT)!r} in the run, {new.get(key, ABSENT)!r} now ({reason})"


def _number(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) else None


def _same(before: object, after: object) -> bool:
    """Whether values are equal. A text and a number are compared as numbers: YAML 1.1 reads 6e-4 as text."""
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, str) is isinstance(after, str):
        return before == after
    try:
        return float(str(before)) == float(str(after))
    except ValueError:
        return before == after
