"""The tokenizer that is stored in a checkpoint; an imported model may have none."""

from pathlib import Path

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.layout import TOKENIZER_FOLDER
from pretrain.errors import UserError
from pretrain.run.origin import LEFT_BEHIND


def keeps_tokenizer(checkpoint: Checkpoint) -> bool:
    return any(name.startswith(f"{TOKENIZER_FOLDER}/") for name in checkpoint.files)


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """The folder of the tokenizer. Raises UserError: there is none; says what to do."""
    if not keeps_tokenizer(checkpoint):
        raise UserError(
            f"{checkpoint.path}: holds no tokenizer{left_behind(checkpoint)}; train it on shards of a "
            "tokenizer first, by model.init_from with model.init_embeddings: random"
        )
    return checkpoint.path / TOKENIZER_FOLDER


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer; raises UserError as `tokenizer_folder`, IntegrityError if it is damaged."""
    return Tokenizer.load(tokenizer_folder(checkpoint))


def left_behind(checkpoint: Checkpoint) -> str:
    """For a message, in brackets: which tokenizer files an import found."""
    files = checkpoint.state.get(LEFT_BEHIND)
    if not isinstance(files, dict) or not files:
        return " (it was imported without)"
    named = ", ".join(f"{name} of sha256 {str(value)[:16]}" for name, value in files.items())
    return f" ({named} stayed behind when it was imported)"
