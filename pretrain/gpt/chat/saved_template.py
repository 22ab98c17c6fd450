"""The chat template that a checkpoint carries."""

from pretrain.checkpoint import Checkpoint
from pretrain.gpt.chat.template import FILE, ChatTemplate


def template_of(checkpoint: Checkpoint) -> ChatTemplate | None:
    """The template that the model was trained with; None if it was not trained on conversations."""
    return ChatTemplate.read(checkpoint.path / FILE) if FILE in checkpoint.files else None
