"""What a config of a run on conversations names: the run to start from, a template, the files."""

from collections.abc import Callable
from dataclasses import dataclass

from data_tools.tokenizer import Tokenizer
from pretrain.chat.data import ChatSequences, ChatTraining, ChatValidation
from pretrain.chat.saved import template_of
from pretrain.chat.template import ChatTemplate
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.config.sections import ChatConfig
from pretrain.restore import TOKENIZER_FOLDER


@dataclass(frozen=True)
class OpenedChat:
    """Where the weights come from, the template of the run, and its files, encoded."""

    start: Checkpoint
    template: ChatTemplate
    training: ChatTraining
    validation: ChatValidation | None
    """None where the config names no file."""


def open_chat(config: ChatConfig, say: Callable[[str], None]) -> OpenedChat:
    """Read everything that a config names.

    Args:
        config: of the run.
        say: told of checkpoints that were passed over.

    Raises:
        UserError, IntegrityError: there is no run to start from, it has no tokenizer, or a file is wrong.
    """
    start = open_checkpoint(resolve(config.model.init_from, say))
    template = _template(config, start)
    folder = start.path / TOKENIZER_FOLDER
    tokenizer = Tokenizer.load(folder)
    path = config.data.validation
    train = ChatSequences.read(config.data.train, config, tokenizer, template)
    validation = ChatSequences.read(path, config, tokenizer, template) if path else None
    seed, batch = config.run.seed, config.batch
    training = ChatTraining.over(train, tokenizer, folder, seed, batch.global_size, batch.micro_size)
    return OpenedChat(start, template, training, ChatValidation(validation) if validation else None)


def _template(config: ChatConfig, start: Checkpoint) -> ChatTemplate:
    """That of the config, or of the run it starts from, or the default one."""
    if config.data.chat_template is not None:
        return ChatTemplate.read(config.data.chat_template)
    return template_of(start) or ChatTemplate.default()
