"""Conversations as token ids, and which of the ids count in the loss."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from pretrain.errors import UserError
from pretrain.gpt.chat.conversation import Conversation
from pretrain.gpt.chat.template import ChatTemplate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatExample:
    """One conversation, encoded.

    tokens: int32 [N]. said: bool [N], tokens that the assistant says, with the ends of its turns; the first
    token is never one of them. line: of the file that it comes from.
    """

    tokens: npt.NDArray[np.int32]
    said: npt.NDArray[np.bool_]
    line: int

    @property
    def size(self) -> int:
        """Positions that it takes: every token but the last is read, every token but the first predicted."""
        return len(self.tokens) - 1

    def cut(self, size: int) -> "ChatExample":
        """Its beginning, in `size` positions."""
        return ChatExample(self.tokens[: size + 1], self.said[: size + 1], self.line)


def encode(
    path: str, conversations: Sequence[Conversation], tokenizer: Tokenizer, template: ChatTemplate
) -> list[ChatExample]:
    """Encode all conversations of a file. Raises UserError naming file and line."""
    found = []
    with Progress("encoding conversations", len(conversations)) as progress:
        for conversation in conversations:
            try:
                tokens, said = template.answers(tokenizer, conversation.messages)
            except UserError as error:
                raise UserError(f"{path}:{conversation.line}: {error}") from None
            if said[0]:
                raise UserError(f"{path}:{conversation.line}: {template.where}: begins with an answer")
            found.append(ChatExample(np.array(tokens, np.int32), np.array(said), conversation.line))
            progress.advance(1)
    return found


def fitting(
    path: str, examples: Sequence[ChatExample], length: int, *, truncate: bool
) -> tuple[ChatExample, ...]:
    """The examples that fit into a sequence.

    Args:
        length: `batch.sequence_length`.
        truncate: cut off the ends of those that do not fit, and leave out those with no answer left.

    Raises:
        UserError: one does not fit, or none has an answer left.
    """
    long = [example for example in examples if example.size > length]
    if not long:
        return tuple(examples)
    longest = max(long, key=lambda example: example.size)
    what = (
        f"{path}:{long[0].line}: has {long[0].size} tokens and is the first conversation of {len(long)}, "
        f"among {len(examples)}, that are longer than batch.sequence_length {length}; the longest, in line "
        f"{longest.line}, has {longest.size}"
    )
    if not truncate:
        raise UserError(f"{what}; raise it, or cut their ends off with data.too_long: truncate")
    cut = [example.cut(length) for example in examples]
    kept = tuple(example for example in cut if example.said.any())
    if not kept:
        raise UserError(f"{what}; cut off there, none has an answer left")
    log.warning(
        "%s; their ends are cut off, and %d that have no answer left are left out", what, len(cut) - len(kept)
    )
    return kept
