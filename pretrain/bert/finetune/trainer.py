"""Fine-tuning a BERT in the loop that pretrains it: other data, another head, weights of another run."""

from pathlib import Path
from typing import Any

from pretrain.bert.finetune.data.data import LabelledTraining, LabelledValidation, open_examples
from pretrain.bert.finetune.model import HEAD, POOLER
from pretrain.bert.finetune.predictions import collect
from pretrain.bert.finetune.spec import FinetuneSpec
from pretrain.checkpoint.tokenizer import tokenizer_folder
from pretrain.config.sections import FinetuneConfig
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.errors import may_be_missing
from pretrain.megatron.init_from import require_init_from
from pretrain.megatron.load_pretrained import load_weights
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.restore import LABELS
from pretrain.megatron.trainer import MegatronTrainer, log

PREDICTIONS = "predictions.jsonl"


class FinetuneTrainer(MegatronTrainer[FinetuneConfig]):
    """A trainer of a pretrained model on labelled examples."""

    def open_data(self) -> tuple[LabelledTraining, LabelledValidation | None]:
        """Open the files of the config, encoded with the pretrained model's tokenizer."""
        return open_examples(self.config, tokenizer_folder(require_init_from(self.start).checkpoint))

    def build_model(self) -> PipelineModel:
        """The encoder with a new head, and the weights of the run that they come from."""
        data = self.data
        assert isinstance(data, LabelledTraining)
        spec = FinetuneSpec.of(self.config, self.layout, data)
        model = PipelineModel(self.config, self.layout, data.vocab_size, spec, training=True)
        start = require_init_from(self.start)
        if self.config.model.init == "pretrained" and not start.is_own:
            checkpoint = start.checkpoint
            pooled = f"{POOLER}weight" in set(checkpoint.keys())
            # A BERT that was pretrained without next-sentence prediction has no pooler.
            stay = load_weights(model.chunks, self.layout, checkpoint, [HEAD] if pooled else [HEAD, POOLER])
            log.info("weights from %s; %s are new", checkpoint.path, ", ".join(stay) or "none on this rank")
        return model

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss, accuracy and F1 on the development file, whose predictions go to `predictions.jsonl`."""
        metrics = super().validate(step)
        if metrics is None or not isinstance(self.validation, LabelledValidation):
            return metrics
        answers = collect(self.model, self.validation)

        def write() -> None:
            with may_be_missing(unless=step >= self.config.run.steps):
                answers.write(Path(self.config.run.dir) / PREDICTIONS)

        broadcast_from_rank0(self.layout.world, write)
        return metrics | {f"validation_{name}": value for name, value in answers.metrics().items()}

    def state(self, step: int) -> dict[str, Any]:
        data = self.data
        assert isinstance(data, LabelledTraining)
        return super().state(step) | {LABELS: list(data.data.labels.names)}

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"init": self.config.model.init}
