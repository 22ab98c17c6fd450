"""Which run the initial weights of a run came from, by its id: paths may change, and runs may be replaced."""

from pathlib import Path

from data_tools.bounded import read_json
from pretrain.errors import UserError

CHECKPOINT, RUN = "init_from", "init_from_run"
"""In state.json and in the facts of status.json: the checkpoint, and the id of its run."""
LEFT_BEHIND = "tokenizer_left_behind"
"""In the state.json of an import without tokenizer: the tokenizer files that were found, with their
sha256."""


def require_same_origin(run: Path, source: object) -> None:
    """Refuse another run under a new `model.init_from`; if the original is gone, the path need not change.

    Args:
        run: folder of the run that resumes.
        source: `model.init_from` now, which was another path before.

    Raises:
        UserError: it is not, or cannot be shown to be, the run that this one began with.
    """
    facts = _read(run / "status.json").get("facts")
    began = facts if isinstance(facts, dict) else {}
    found = _id_of(Path(str(source))) if source is not None else None
    if found is None or found != began.get(RUN):
        raise UserError(
            f"{source!r} is not known to be the run that {run} began with "
            f"({began.get(CHECKPOINT, 'none')}); set the path back: that run was read at step 0 alone, and "
            "may be gone. To start from another one, choose another run.dir",
            "model.init_from",
        )


def _id_of(path: Path) -> str | None:
    """The id of a run, from its folder or one in it; None if there is none."""
    for folder in (path, path.parent):
        for name in ("state.json", "status.json"):
            if isinstance(found := _read(folder / name).get("run"), str):
                return found
    return None


def _read(path: Path) -> dict[str, object]:
    """A JSON object; empty if it cannot be read."""
    try:
        values = read_json(path)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
