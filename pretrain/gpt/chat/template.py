"""From a conversation to tokens: one Jinja template, which training and generation both render.

A template is written as for transformers: it gets `messages`, `add_generation_prompt`, `bos_token` and
`eos_token`, in a sandbox (`ImmutableSandboxedEnvironment`) in a process of its own. With a tokenizer of ours,
both tokens are the end of a document, its only special piece. The default template uses it alone as a
separator, and roles are plain words. With a tokenizer that was made elsewhere, a template may also write its
special tokens by name. No message is ever encoded into a special token, so none can pass for one of another
role.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_tools.bounded import read_bytes
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.hf_files import CONFIG, named_tokens
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
"""In no message. While a template is rendered, it stands for the end of a document of a tokenizer of ours, or
within the names of special tokens that a message spells."""


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
            UserError: the template refuses the conversation, or fails, or spells what only a tokenizer made
                elsewhere has.
        """
        if tokenizer.is_ours and END in self.source:
            raise UserError(
                f"{self.where}: spells {END}, which a message may hold too; write {{{{ eos_token }}}}"
            )
        named = {name: value for name, value in tokenizer.special.items() if len(name) > 1}
        special = named or {MARK: tokenizer.eod_id}
        names = re.compile("|".join(re.escape(name) for name in sorted(special, key=len, reverse=True)))
        text = self._renderer.render(
            {
                "messages": [
                    {**message, "content": _hidden(message["content"], names)}
                    for message in as_json(messages)
                ],
                "add_generation_prompt": answer,
                **_token_names(tokenizer),
            }
        )
        ids: list[int] = []
        begin = 0
        for found in (*names.finditer(text), None):
            piece = text[begin : found.start() if found else None].replace(MARK, "")
            ids += tokenizer.encode(piece) if piece else []
            if found:
                ids.append(special[found[0]])
                begin = found.end()
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


def _hidden(content: str, names: re.Pattern[str]) -> str:
    """A message in which no name of a special token is spelt as it stands."""
    while (found := names.search(content)) and found[0] != MARK:
        content = f"{content[: found.start() + 1]}{MARK}{content[found.start() + 1 :]}"
    return content


def _token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """What a template calls the special tokens, such as eos_token."""
    if tokenizer.is_ours:
        return {"bos_token": MARK, "eos_token": MARK}
    by_id = {value: name for name, value in tokenizer.special.items()}
    found = {"eos_token": by_id[tokenizer.eod_id]} if tokenizer.eod_id in by_id else {}
    if tokenizer.begin_ids:
        found["bos_token"] = by_id.get(tokenizer.begin_ids[0], "")
    return found | named_tokens(CONFIG, tokenizer.codec.files)


def template_of(checkpoint: Checkpoint) -> ChatTemplate | None:
    """The template that the model was trained with; None if it was not trained on conversations."""
    return ChatTemplate.read(checkpoint.path / FILE) if FILE in checkpoint.files else None
