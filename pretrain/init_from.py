"""The checkpoint that `model.init_from` names."""

from collections.abc import Callable

from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.errors import UserError


def open_start(source: str, fingerprint: str, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint that a run starts from.

    Args:
        source: `model.init_from`.
        fingerprint: of the tokenizer of the data.
        say: told of checkpoints that were passed over.

    Raises:
        UserError: it was trained with another tokenizer.
        IntegrityError: the run's checkpoints are damaged.
    """
    checkpoint = open_checkpoint(resolve(source, say))
    theirs = checkpoint.state.get("tokenizer_fingerprint")
    if theirs not in (None, fingerprint):  # None: imported without a tokenizer
        raise UserError(
            f"model.init_from: {checkpoint.path} was trained with tokenizer {str(theirs)[:16]}, and "
            f"data.train was built with {fingerprint[:16]}; build the shards with {checkpoint.path}/tokenizer"
        )
    return checkpoint
