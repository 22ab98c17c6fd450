"""From a conversation to tokens: one Jinja template, which training and generation both render.

A template is written as for transformers: it gets `messages`, `add_generation_prompt`, `bos_token` and
`eos_token`, in a sandbox (`ImmutableSandboxedEnvironment`) in a process of its own. Both tokens are the end
of a document, the only special piece that every tokenizer of a GPT has. The default template uses it alone as
a separator, and roles are plain words: no text is ever encoded into it, so no message can pass for one of
another role, and a message has the same tokens whatever stands before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_tools.bounded import read_bytes
from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint
from pretrain.errors import UserError
from pretrain.gpt.chat.conversation import Message, as_json
from pretrain.gpt.chat.renderer import Renderer

FILE = "chat_template.jinja"
"""File name in a checkpoint and in an export."""
DEFAULT = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("role must be system, user or assistant, got '" + message['role'] + "'") }}
    {%- endif %}
    {{- message['role'] | capitalize + eos_token + message['content'] + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant' + eos_token }}
{%- endif %}
"""
END = "<|endoftext|>"
"""What transformers calls the end of a document; a template must not spell it, since a text may."""
MOST_BYTES = 1 << 20
"""Size of the largest template."""
MARK = "\0"
"""Stands for the end of a document while a template is rendered; no message contains it."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template, from `read` or from `DEFAULT`.

    source: its text. where: its file, for messages.
    """

    source: str
    where: str

    @classmethod
    def default(cls) -> "ChatTemplate":
        """The template of runs whose config names none."""
        return cls(DEFAULT, "the default chat template")

    @classmethod
    def read(cls, path: str | Path) -> "ChatTemplate":
        """Read a template from a file. Raises UserError if it cannot be read or is not a template."""
        try:
            text = read_bytes(path, MOST_BYTES).decode("utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not UTF-8 text: {error}") from None
        if END in text:
            raise UserError(f"{path}: spells {END}, which a message may hold too; write {{{{ eos_token }}}}")
        template = cls(text, str(path))
        _ = template._renderer
        return template

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.source, self.where)

    def tokens(self, tokenizer: Tokenizer, messages: Sequence[Message], *, answer: bool) -> list[int]:
        """The ids of a conversation.

        Args:
            tokenizer: of the model.
            messages: from the first on.
            answer: end where the assistant's next message begins (`add_generation_prompt`).

        Raises:
            UserError: the template refuses the conversation, or fails.
        """
        text = self._renderer.render(
            {
                "messages": as_json(messages),
                "add_generation_prompt": answer,
                "bos_token": MARK,
                "eos_token": MARK,
            }
        )
        ids: list[int] = []
        for number, piece in enumerate(text.split(MARK)):
            ids += [tokenizer.eod_id] if number else []
            ids += tokenizer.encode(piece) if piece else []
        return ids

    def answers(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a whole conversation, and which of them the assistant says, with the ends of its turns.

        Raises UserError if the template does not say where an answer begins or ends.
        """
        ids = self.tokens(tokenizer, messages, answer=False)
        said = [False] * len(ids)
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.tokens(tokenizer, messages[:number], answer=True)
            begin = len(before)
            if ids[:begin] != before:
                raise UserError(
                    f"{self.where}: what it makes of the messages before an answer, with "
                    "add_generation_prompt, is not how the conversation with the answer begins: the model "
                    "would be asked with other tokens than it is trained on"
                )
            if tokenizer.eod_id not in ids[begin:]:
                raise UserError(
                    f"{self.where}: no eos_token follows an answer: the model would not learn to stop"
                )
            end = ids.index(tokenizer.eod_id, begin) + 1
            said[begin:end] = [True] * (end - begin)
        return ids, said


def template_of(checkpoint: Checkpoint) -> ChatTemplate | None:
    """The template that the model was trained with; None if it was not trained on conversations."""
    return ChatTemplate.read(checkpoint.path / FILE) if FILE in checkpoint.files else None
