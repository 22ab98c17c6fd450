"""Which keys of a config may change when a run is resumed, and why; everything else must agree.

One table decides. A key that no rule names must agree, so that a new key is safe until somebody has thought
about it. Paths of data may change because the fingerprints of what they hold are compared instead
(`pretrain.run`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel


@dataclass(frozen=True)
class Rule:
    """What a resume may do to the keys that match a pattern."""

    pattern: str
    may_change: bool
    reason: str


RULES = (
    Rule("run.dir", True, "a run folder may be moved"),
    Rule("run.resume", True, "says how to start, not what to train"),
    Rule("run.steps", True, "as long as the learning rate of earlier steps does not depend on it"),
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
    Rule("schedule.*", False, "the learning rate would jump"),
    Rule("loss.*", False, "decides what both networks are trained to do"),
    Rule("data.text", False, "other columns are other examples"),
    Rule("data.text_pair", False, "other columns are other examples"),
    Rule("data.label", False, "another column has other classes"),
    Rule("data.labels", False, "the order of the classes decides what each output means"),
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
    Rule("data.validation.*.path", True, "shards may be moved: their fingerprint is compared"),
    Rule("data.validation.*.weight", False, "validation losses of one run must be comparable"),
    Rule("data.validation", False, "validation losses of one run must be comparable"),
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
    Rule("eval.*", True, "says when and how much to validate, not what to train"),
    Rule("tracking.*", True, "says where metrics go, not what to train"),
    Rule("health.*", True, "says what to do about bad numbers, not what to train"),
    Rule("slurm.*", True, "says where a run runs, not what to train"),
)

Config = BaseModel | Mapping[str, object]


def flatten(config: Config) -> dict[str, object]:
    """Dotted keys of a config, list items by their position (`data.train.0.path`); keys as in a file."""
    tree = config.model_dump(mode="json", by_alias=True) if isinstance(config, BaseModel) else config
    return dict(_leaves("", tree))


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
    """Every key whose value differs, with both values; "(absent)" for a key that one side lacks."""
    before, after = flatten(old), flatten(new)
    pairs = {
        key: (before.get(key, "(absent)"), after.get(key, "(absent)")) for key in sorted({*before, *after})
    }
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


def compatible(old: Config, new: Config) -> list[str]:
    """Why a run that began with `old` may not go on with `new`: one line a key, none if it may."""
    changes = changed_keys(old, new)
    problems = [
        f"{key}: {before!r} in the run, {after!r} now ({rule_for(key).reason})"
        for key, (before, after) in changes.items()
        if not rule_for(key).may_change
    ]
    return problems + (_steps_problem(flatten(new), *changes["run.steps"]) if "run.steps" in changes else [])


def _steps_problem(new: Mapping[str, object], before: object, after: object) -> list[str]:
    """A schedule without explicit `decay_steps` derives it from `run.steps`."""
    if new.get("schedule.kind") == "constant" or any(
        new.get(f"schedule.{length}") is not None for length in ("decay_steps", "decay_tokens")
    ):
        return []
    return [
        f"run.steps: {before!r} in the run, {after!r} now (schedule.decay_steps is null, so the learning "
        "rate of every step depends on it; to prolong a run, set schedule.decay_steps from its start)"
    ]


def _same(before: object, after: object) -> bool:
    """Equal as values: YAML 1.1 reads 6e-4 as text and 0.0006 as a number."""
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    try:
        return float(str(before)) == float(str(after))
    except ValueError:
        return before == after
