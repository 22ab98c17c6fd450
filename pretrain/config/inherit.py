"""A config with `model.init_from` inherits its model from the run that weights come from.

What that run was trained with fills the keys that the config leaves out, as a base file would. A key that
says otherwise is refused, since the weights would not mean the same. A run that has checkpoints of its own
inherits from itself: the run that weights came from may no longer exist.
"""

from pathlib import Path

from data_tools.bounded import SMALL_FILE, read_bytes
from pretrain.config.node import Node, Problem, SourceLocation, dotted, find, mapping, merge, plain
from pretrain.config.schema import keys_of, show
from pretrain.config.yaml_text import parse_yaml
from pretrain.errors import UserError
from pretrain.kinds import RECORDS, kind_named

RESOLVED_CONFIG = "config.resolved.yaml"
"""File in a run folder and in each checkpoint: every key with its value."""
OWN = ("kind", "init_from", "init", "init_embeddings", "dropout")
"""Keys of `model` that a run decides for itself."""
INIT_FROM = ("model", "init_from")


def with_inherited(tree: Node, problems: list[Problem]) -> Node:
    """The config with the keys of the run that weights come from; problems are added to `problems`."""
    model = mapping(mapping(tree).get("model", Node({}, tree.location)))
    kind, source = model.get("kind"), model.get("init_from")
    name = "" if kind is None else str(kind.value)
    inherits = kind_named(name).inherits if name in RECORDS else None
    if inherits is None or source is None:
        return tree
    if not isinstance(source.value, str):
        return tree  # no run is named, or the check of types reports it
    wanted, section = inherits.kinds, inherits.section
    where, run_dir = source.value, find(tree, ("run", "dir"))[0].value
    if isinstance(run_dir, str) and goes_on(run_dir, name):
        where, wanted = str(Path(run_dir).expanduser()), (name,)
    path = Path(where) / RESOLVED_CONFIG
    if not path.is_file() and set(keys_of(section)) - set(OWN) <= set(model):
        return tree  # the config is complete without the run
    try:
        run = _read(path, wanted)
    except UserError as error:
        problems.append(Problem(source.location, dotted(INIT_FROM), str(error)))
        return tree
    theirs = {key: node for key, node in mapping(find(run, ("model",))[0]).items() if key not in OWN}
    lower: dict[str, Node] = {"model": Node(theirs, run.location)}
    length, _ = find(run, ("batch", "sequence_length"))
    lower["batch"] = Node({"sequence_length": length}, run.location)
    problems += [
        Problem(model[key].location, f"model.{key}", _differs(model[key], node, where))
        for key, node in theirs.items()
        if key in model and plain(model[key]) != plain(node)
    ]
    own_length, given = find(tree, ("batch", "sequence_length"))
    learned = plain(theirs.get("position_embedding", Node("learned", run.location))) == "learned"
    if given and learned and plain(own_length) != plain(length):
        text = f"{_differs(own_length, length, where)}, which has a vector for each position"
        problems.append(Problem(own_length.location, "batch.sequence_length", text))
    return merge(Node(lower, run.location), tree)


def goes_on(run_dir: str, kind: str) -> bool:
    """Whether a run folder has checkpoints of a run of this kind, which the next job resumes."""
    folder = Path(run_dir).expanduser()
    try:
        if not any((folder / "checkpoints").glob("step-*")):
            return False
        _read(folder / RESOLVED_CONFIG, (kind,))
    except (OSError, ValueError, UserError):  # ValueError: a NUL byte in the path
        return False
    return True


def _differs(mine: Node, theirs: Node, run: str) -> str:
    return f"{show(plain(mine))} is not that of {run}: {show(plain(theirs))}; leave it out"


def _read(path: Path, wanted: tuple[str, ...]) -> Node:
    """Read the config of a run, which must be of one of the kinds `wanted`."""
    try:
        text = read_bytes(path, SMALL_FILE).decode("utf-8")
    except (OSError, ValueError):
        raise UserError(f"'{path.parent}' holds no run: {RESOLVED_CONFIG} cannot be read in it") from None
    tree, _, found = parse_yaml(text, lambda line: SourceLocation("base", str(path), line))
    kind = plain(tree).get("model", {}).get("kind") if isinstance(tree.value, dict) else None
    if found or kind not in wanted:
        raise UserError(f"'{path.parent}' is no run of a {wanted[0].upper()}: model.kind is {show(kind)}")
    return tree
