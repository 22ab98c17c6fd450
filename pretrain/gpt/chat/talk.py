"""`pretrain generate --chat`: answers of a model that has a chat template.

At a terminal it is a conversation. Otherwise each `--prompt`, or each line of standard input, begins a
conversation of its own and gets its answer.
"""

import codecs
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from pretrain.config.generate_request import GenerateRequest
from pretrain.distributed.launcher import read_rank_info
from pretrain.distributed.world import init_distributed
from pretrain.errors import UserError
from pretrain.gpt.chat.conversation import Message
from pretrain.gpt.chat.template import ChatTemplate, template_of
from pretrain.gpt.generate import (
    TextGenerator,
    continue_texts,
    open_text_generator,
    progress_printer,
    spawn_ranks,
)
from pretrain.megatron.restore import SavedModel
from pretrain.sampling import SEEDS, Sampling, require_seed, show

HELP = "/reset begins anew, /exit or ctrl-D ends"


def answer(
    generator: TextGenerator,
    template: ChatTemplate,
    conversations: Sequence[Sequence[Message]],
    max_tokens: int,
    sampling: Sampling,
    tell: Callable[[str], None],
    on_token: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """What the assistant says next in each conversation; all ranks together.

    Args:
        generator: with model and tokenizer.
        template: the template that it was trained with.
        conversations: from their first message to a user's.
        sampling: how to draw; conversation i with seed + i.
        tell: told of conversations that the model does not see whole, and of answers that were cut off.
        on_token: told of each token of the first answer as it is drawn.
    """
    tokenizer, length = generator.tokenizer, generator.saved.config.batch.sequence_length
    texts = [template.tokens(tokenizer, messages, answer=True) for messages in conversations]
    for text in texts:
        if len(text) > length:
            tell(f"the conversation has {len(text):,} tokens; the model sees the last {length:,} of them")
    drawn = continue_texts(generator.model, texts, tokenizer.eod_id, max_tokens, sampling, tell=on_token)
    for number, row in enumerate(drawn, 1):
        if len(row) == max_tokens:
            which = f"answer {number}" if len(drawn) > 1 else "the answer"
            tell(f"{which} is cut off after {max_tokens:,} tokens (--max-tokens)")
    return [tokenizer.decode(row) for row in drawn]


def chat_command(request: GenerateRequest) -> None:
    """`pretrain generate --chat`: each prompt, or line of standard input, begins a conversation of its own.

    Raises:
        UserError: the checkpoint has no chat template, there is nothing to answer, or as in
            `open_text_generator`.
    """
    prompts, sampling, max_tokens = request.texts(), request.sampling(), request.tokens
    info = read_rank_info(os.environ)
    talking = not prompts and sys.stdin.isatty()
    several = info.launcher != "alone" or (request.processes or 1) > 1
    if several and not prompts:
        raise UserError(
            "--chat with several processes answers each --prompt; standard input is for one process"
        )
    if not prompts and not talking:
        prompts = _lines(sys.stdin.buffer.read())
        if not prompts:
            raise UserError("nothing to answer: give --prompt, or lines on standard input")
    for prompt in prompts:
        _require_text(prompt)
    spawn_ranks(info, request, prompts, sampling, "--chat")
    require_seed(sampling)
    with init_distributed(info) as world:
        generator = open_text_generator(request.checkpoint, world, request.overrides or (), require_template)
        template = template_of(generator.saved.checkpoint)
        assert template is not None, "required above"
        if talking:
            _talk(generator, template, max_tokens, sampling)
            return
        asked = [[Message("user", prompt)] for prompt in prompts]
        answers = answer(generator, template, asked, max_tokens, sampling, progress_printer(world))
        if world.is_first:
            show([""] * len(answers), answers)


def require_template(saved: SavedModel) -> None:
    """Raise UserError if a checkpoint has no chat template."""
    if template_of(saved.checkpoint) is None:
        raise UserError(
            f"{saved.checkpoint.path}: has no chat template: it was not trained on conversations; "
            "configs/gpt/finetune-chat.yaml does so, or leave out --chat"
        )


def _lines(raw: bytes) -> tuple[str, ...]:
    """The lines of standard input. Raises UserError naming the line."""
    found = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            found.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number}: is not UTF-8 text: {error.reason}") from None
    return tuple(line for line in found if line.strip())


def _require_text(prompt: str) -> None:
    if not prompt.strip():
        raise UserError("--prompt is empty: there is nothing to answer")
    if "\0" in prompt:
        raise UserError(f"the prompt {prompt!r} holds a NUL character")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt {prompt!r} is not valid Unicode: {error.reason}") from None


def _talk(generator: TextGenerator, template: ChatTemplate, max_tokens: int, sampling: Sampling) -> None:
    """A conversation at the terminal; turn i is drawn with seed + i."""
    import readline  # noqa: F401 - gives `input` its editing and history

    print(f"{generator.saved.checkpoint.path}: {HELP}")
    messages: list[Message] = []
    while True:
        try:
            said = input("> ")
            if said.strip() == "/exit":
                return
            if said.strip() == "/reset":
                messages = []
                print("the conversation begins anew")
            elif said.strip():
                _require_text(said)
                asked = [*messages, Message("user", said)]
                messages = _turn(generator, template, asked, max_tokens, sampling)
        except EOFError:
            print()
            return
        except (UserError, UnicodeDecodeError) as error:
            print(error, file=sys.stderr)


def _turn(
    generator: TextGenerator,
    template: ChatTemplate,
    messages: list[Message],
    max_tokens: int,
    sampling: Sampling,
) -> list[Message]:
    """Print the answer as its tokens come, and return the conversation with it."""
    # Incremental: a token may be part of a character.
    characters = codecs.getincrementaldecoder("utf-8")("replace")

    def on_token(token: int) -> None:
        print(characters.decode(generator.tokenizer.decode_bytes([token])), end="", flush=True)

    later: list[str] = []
    own = replace(sampling, seed=(sampling.seed + len(messages) // 2) % SEEDS)
    (reply,) = answer(generator, template, [messages], max_tokens, own, later.append, on_token)
    print(characters.decode(b"", final=True))
    for line in later:
        print(line, file=sys.stderr)
    return [*messages, Message("assistant", reply)]
