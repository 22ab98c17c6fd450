"""Pretraining a transformer on token shards, from new weights or from those of another run."""

from abc import abstractmethod
from typing import Any, Generic, TypeVar

from pretrain.config.sections import BertConfig, GptConfig
from pretrain.megatron.init_from import require_tokenizer
from pretrain.megatron.load_pretrained import load_pretrained
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.sharding import VOCABULARY
from pretrain.megatron.trainer import MegatronTrainer

C = TypeVar("C", GptConfig, BertConfig)


class CorpusTrainer(MegatronTrainer[C], Generic[C]):
    """A trainer that may take its weights from another run; a subclass says what is read and how."""

    @abstractmethod
    def spec(self) -> ModelSpec[Any, Any]:
        """The model spec: how the model is run on this rank."""

    def build_model(self) -> PipelineModel:
        model = PipelineModel(self.config, self.layout, self.data.vocab_size, self.spec(), training=True)
        if self.start is not None:
            require_tokenizer(self.config, self.start, self.data.tokenizer.fingerprint)
            anew = self.config.model.init_embeddings == "random"
            load_pretrained(self.start, model.chunks, self.layout, VOCABULARY if anew else ())
        return model
