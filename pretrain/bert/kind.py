"""The records of BERTs, pretrained and fine-tuned: what each command asks of these kinds."""

from dataclasses import replace
from functools import partial

from pretrain.config.rules import CORPUS, FINETUNE, finetune
from pretrain.config.rules import bert as bert_data
from pretrain.config.sections import (
    BertConfig,
    ClassifierConfig,
    EncoderModelConfig,
    FinetuneConfig,
    TaggerConfig,
)
from pretrain.data.kind import EXPORT, PLAN_OPTIONS, contents, evaluation, summary
from pretrain.kind import LAYOUT_KEYS, Evaluation, Inheritance, Kind, Late, Planning

PUBLISHED_VOCABULARY = 30_522
"""Ids of the original's tokenizer."""
_SPEC = Late("pretrain.bert.spec:BertSpec")
_FROM_BERT = Inheritance(("bert",), EncoderModelConfig)


def _labelled_files(config: FinetuneConfig, named: bool) -> list[str]:
    """Files whose contents decide the scores. The training file is one: it says which classes exist."""
    scored = None if named else config.data.validation
    return [config.data.train, *([scored] if scored else [])]


BERT = Kind(
    name="bert",
    title="a bert",
    config=BertConfig,
    rules=(*CORPUS, *bert_data.RULES),
    inherits=_FROM_BERT,
    trainer=Late("pretrain.bert.trainer:BertTrainer"),
    open_data=partial(
        Late("pretrain.megatron.corpus_check:open_corpus"), Late("pretrain.bert.data.text:open_data")
    ),
    summary=summary,
    contents=contents,
    spec=_SPEC,
    planning=Planning(
        partial(Late("pretrain.plan.table:show_text_plan"), _SPEC, PUBLISHED_VOCABULARY), PLAN_OPTIONS
    ),
    evaluation=evaluation(Late("evals.families.bert:evaluate_bert"), ("masked",)),
    export=EXPORT,
)
CLASSIFIER = Kind(
    name="bert-classifier",
    title="a bert-classifier",
    config=ClassifierConfig,
    rules=(*FINETUNE, *finetune.ENCODER),
    inherits=_FROM_BERT,
    trainer=Late("pretrain.bert.finetune.trainer:FinetuneTrainer"),
    open_data=Late("pretrain.bert.finetune.check:check_examples"),
    summary=Late("pretrain.bert.finetune.check:summary"),
    contents=Late("pretrain.bert.finetune.check:contents"),
    evaluation=Evaluation(
        score=Late("evals.families.finetune:evaluate_finetuned"),
        tasks=("accuracy",),
        reads=_labelled_files,
        keys=(*LAYOUT_KEYS, "data.train", "data.validation"),
        one_file=True,
    ),
    export=EXPORT,
)
TAGGER = replace(CLASSIFIER, name="bert-tagger", title="a bert-tagger", config=TaggerConfig)
