"""Opens what a chat config names: the run that weights come from, a template, the files."""

from dataclasses import dataclass

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.tokenizer import tokenizer_folder
from pretrain.config.load import LoadedConfig
from pretrain.config.sections import ChatConfig
from pretrain.gpt.chat.data import ChatSequences, ChatTraining, ChatValidation
from pretrain.gpt.chat.template import ChatTemplate, template_of
from pretrain.megatron.init_from import InitFrom, find_init_from, require_init_from
from pretrain.run.exit import print_error


@dataclass(frozen=True)
class OpenedChat:
    """The template of the run, and its files, encoded."""

    template: ChatTemplate
    training: ChatTraining
    validation: ChatValidation | None
    """None where the config names no file."""


def open_chat(config: ChatConfig, start: InitFrom) -> OpenedChat:
    """Read everything that a config names.

    Raises UserError or IntegrityError if the run that weights come from has no tokenizer, or a file is wrong.
    """
    template = _template(config, start.checkpoint)
    folder = tokenizer_folder(start.checkpoint)
    tokenizer = Tokenizer.load(folder)
    path = config.data.validation
    train = ChatSequences.read(config.data.train, config, tokenizer, template)
    validation = ChatSequences.read(path, config, tokenizer, template) if path else None
    seed, batch = config.run.seed, config.batch
    training = ChatTraining.over(train, tokenizer, folder, seed, batch.global_size, batch.micro_size)
    return OpenedChat(template, training, ChatValidation(validation) if validation else None)


def check_conversations(loaded: LoadedConfig, config: ChatConfig, processes: int | None) -> ChatTraining:
    """`open_chat` for `pretrain check`, before a run is opened."""
    return open_chat(config, require_init_from(find_init_from(config, print_error))).training


def _template(config: ChatConfig, start: Checkpoint) -> ChatTemplate:
    """The template of the config, else of the checkpoint that the weights come from, else the default one."""
    if config.data.chat_template is not None:
        return ChatTemplate.read(config.data.chat_template)
    return template_of(start) or ChatTemplate.default()
