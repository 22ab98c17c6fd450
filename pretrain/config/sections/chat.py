"""A run that fine-tunes a GPT on conversations."""

from typing import Annotated, Literal

from pretrain.config.sections.gpt import DecoderConfig, DecoderModelConfig
from pretrain.config.sections.resume import (
    OTHER_CONVERSATIONS,
    SAME_FILE,
    SAME_RUN,
    SCORED_FILE,
    may_change,
    must_agree,
)
from pretrain.config.sections.section import Name, PathText, Section


class ChatModelConfig(DecoderModelConfig):
    """A GPT that answers. What is not given here is as in the run that it comes from."""

    kind: Literal["gpt-chat"]
    """Model family."""
    init_from: Annotated[PathText, SAME_RUN]
    """Run folder, or one checkpoint of it, of the GPT to start from, pretrained or fine-tuned."""


class ChatDataConfig(Section):
    """Where conversations come from: .jsonl files, an object a line."""

    train: Annotated[PathText, SAME_FILE]
    """File to train on."""
    validation: Annotated[PathText | None, SCORED_FILE] = None
    """File to score; null: nothing is scored."""
    prompt: Annotated[Name | None, OTHER_CONVERSATIONS] = None
    """Key of what is asked; null: `prompt`. Not with `messages`."""
    response: Annotated[Name | None, OTHER_CONVERSATIONS] = None
    """Key of what is to be answered; null: `response`. Not with `messages`."""
    messages: Annotated[Name | None, OTHER_CONVERSATIONS] = None
    """Key of a list of {role, content}, roles being system, user and assistant; null: each line has a prompt
    and a response."""
    chat_template: Annotated[
        PathText | None, may_change("the file may be moved: what it makes of the conversations is compared")
    ] = None
    """Jinja file that makes text of a conversation; null: that of `model.init_from`, or the default one."""
    too_long: Annotated[Literal["refuse", "truncate"], must_agree("decides which tokens are trained on")] = (
        "refuse"
    )
    """Conversations beyond `batch.sequence_length`. refuse: an error. truncate: their ends are cut off, and
    those that have no answer left are left out; a warning counts both."""
    packing: Annotated[bool, must_agree("other sequences are other samples")] = True
    """Several conversations share a sequence, each with positions and attention of its own."""


class ChatConfig(DecoderConfig):
    """A run that fine-tunes a GPT on conversations."""

    model: ChatModelConfig
    data: ChatDataConfig
