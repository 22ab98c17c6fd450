"""Fine-tuning a GPT on conversations, in the loop that pretrains it: other data, weights of another run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pretrain.config.sections import ChatConfig
from pretrain.gpt.chat.data import ChatTraining, ChatValidation, open_chat
from pretrain.gpt.chat.spec import ChatSpec
from pretrain.gpt.chat.template import FILE
from pretrain.megatron.init_from import require_init_from
from pretrain.megatron.load_pretrained import load_pretrained
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.trainer import MegatronTrainer, log


class ChatTrainer(MegatronTrainer[ChatConfig]):
    """A trainer of a pretrained GPT on conversations."""

    def open_data(self) -> tuple[ChatTraining, ChatValidation | None]:
        """Open the files of the config, encoded with the pretrained model's tokenizer."""
        self.opened = open_chat(self.config, require_init_from(self.start))
        training, validation = self.opened.training, self.opened.validation
        for sequences in (training.data, *([validation.data] if validation else [])):
            log.info("%s", sequences.describe())
        return training, validation

    def build_model(self) -> PipelineModel:
        vocab_size = self.data.vocab_size
        spec = ChatSpec(self.config, self.layout, vocab_size)
        model = PipelineModel(self.config, self.layout, vocab_size, spec, training=True)
        load_pretrained(require_init_from(self.start), model.chunks, self.layout)
        return model

    def files(self) -> Mapping[str, bytes | Path]:
        return {**super().files(), FILE: self.opened.template.source.encode()}

    def facts(self) -> dict[str, str]:
        template = hashlib.sha256(self.opened.template.source.encode()).hexdigest()
        return super().facts() | {"chat_template_fingerprint": template}
