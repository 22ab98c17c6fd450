"""The run that `model.init_from` names. It is read at step 0 only; later, a run uses its own checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.checkpoint.layout import TOKENIZER_FOLDER
from pretrain.checkpoint.tokenizer import left_behind
from pretrain.config.inherit import goes_on
from pretrain.config.sections import BertConfig, GptConfig, TextConfig
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.run.origin import CHECKPOINT, RUN

Together = Callable[[Callable[[], str]], str]
"""Called by every rank; rank 0 acts, and all ranks get its answer or raise its error."""


@dataclass(frozen=True)
class InitFrom:
    """The checkpoint that a run takes its tokenizer from and, at step 0, its weights."""

    checkpoint: Checkpoint
    """Of the run that `model.init_from` names; of the run itself when it is resumed."""
    is_own: bool
    """Whether the checkpoint is the run's own."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Where the weights of step 0 came from, for the status and for `state.json`, which carries it on."""
        if self.is_own:
            state = self.checkpoint.state
            return {key: str(state[key]) for key in (CHECKPOINT, RUN) if key in state}
        run = self.checkpoint.state.get("run")
        return {CHECKPOINT: str(self.checkpoint.path)} | ({RUN: run} if isinstance(run, str) else {})


def open_init_from(
    config: TextConfig,
    own: Checkpoint | None,
    say: Callable[[str], None],
    together: Together = lambda act: act(),
) -> InitFrom | None:
    """Open the checkpoint that a run takes its weights from.

    Args:
        own: the run's own checkpoint, if it is being resumed; None: it is at step 0.
        say: told of checkpoints that were passed over.
        together: makes all ranks use the same checkpoint of a run that is still in progress.

    Returns:
        None if the weights are drawn from `run.seed`.

    Raises:
        UserError, IntegrityError: the named run does not exist, or its checkpoints are damaged.
    """
    source = _source(config)
    if source is None:
        return None
    if own is not None:
        return InitFrom(own, is_own=True)
    return InitFrom(open_checkpoint(together(lambda: str(resolve(source, say)))), is_own=False)


def find_init_from(config: TextConfig, say: Callable[[str], None], *, anew: bool = False) -> InitFrom | None:
    """As `open_init_from` when no run has been opened: looks for the run's own checkpoint first.

    Args:
        say: told of checkpoints that were passed over.
        anew: ignore what is in `run.dir`.
    """
    own = None
    if _source(config) is not None and not anew and goes_on(config.run.dir, config.model.kind):
        own = open_checkpoint(resolve(RunFolder(config.run.dir).path, say))
    return open_init_from(config, own, say)


def require_init_from(start: InitFrom | None) -> InitFrom:
    """The same, for a run that must have one: a rule between keys has checked it."""
    assert start is not None, "model.init_from is required"
    return start


def require_tokenizer(config: GptConfig | BertConfig, start: InitFrom, fingerprint: str) -> None:
    """Refuse data of another tokenizer than that of the weights.

    Args:
        fingerprint: of the tokenizer of the data.

    Raises:
        UserError: ids mean other texts there, and the embedding is not to be learnt anew.
    """
    if start.is_own or config.model.init_embeddings == "random":
        return
    where, theirs = start.checkpoint.path, start.checkpoint.state.get("tokenizer_fingerprint")
    ours, anew = fingerprint[:16], "or learn the embedding anew with model.init_embeddings: random"
    if theirs is None:
        raise UserError(
            f"{where} holds no tokenizer{left_behind(start.checkpoint)}, so its ids are "
            f"not known to mean what those of data.train do, built with {ours}; import it with its "
            f"tokenizer, {anew}",
            "model.init_from",
        )
    if theirs != fingerprint:
        raise UserError(
            f"{where} was trained with tokenizer {str(theirs)[:16]}, and data.train was "
            f"built with {ours}; build the shards with {where}/{TOKENIZER_FOLDER}, {anew}",
            "model.init_from",
        )


def _source(config: TextConfig) -> str | None:
    return getattr(config.model, "init_from", None)
