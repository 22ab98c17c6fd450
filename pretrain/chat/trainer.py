"""Fine-tuning a GPT on conversations in the loop that pretrains it: other data, weights to start from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pretrain.chat.data import ChatTraining, ChatValidation
from pretrain.chat.open import open_chat
from pretrain.chat.template import FILE
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import ChatConfig
from pretrain.families.chat import ChatFamily
from pretrain.gate import Gate
from pretrain.init_from import require_start
from pretrain.launch import World
from pretrain.model import Model
from pretrain.trainer import Trainer, log
from pretrain.warm_start import start_from


class ChatTrainer(Trainer):
    """A trainer of a pretrained GPT on conversations."""

    def __init__(
        self, config: ChatConfig, world: World, gate: Gate | None = None, own: Checkpoint | None = None
    ) -> None:
        self.chat = config
        super().__init__(config, world, gate, own)

    def open_data(self) -> tuple[ChatTraining, ChatValidation | None]:
        """The files of the config, encoded with the pretrained model's tokenizer."""
        self.opened = open_chat(self.chat, require_start(self.start))
        training, validation = self.opened.training, self.opened.validation
        for sequences in (training.data, *([validation.data] if validation else [])):
            log.info("%s", sequences.describe())
        return training, validation

    def build_model(self) -> Model:
        vocab_size = self.data.vocab_size
        family = ChatFamily(self.chat, self.layout, vocab_size)
        model = Model(self.config, self.layout, vocab_size, family, training=True)
        start_from(require_start(self.start), model.chunks, self.layout)
        return model

    def files(self) -> Mapping[str, bytes | Path]:
        return {**super().files(), FILE: self.opened.template.source.encode()}

    def facts(self) -> dict[str, str]:
        template = hashlib.sha256(self.opened.template.source.encode()).hexdigest()
        return super().facts() | {"chat_template_fingerprint": template}
