"""The record of recurrent language models: what each command asks of this kind."""

from functools import partial

from pretrain.config.generate_request import OF_TEXT
from pretrain.config.rules import DESCENT, corpus, remote, replicated, sources
from pretrain.config.sections import RnnConfig
from pretrain.data.kind import contents, evaluation
from pretrain.kind import Generation, Kind, Late

RNN = Kind(
    name="rnn",
    title="a recurrent model",
    config=RnnConfig,
    rules=(*replicated.rules("streams"), *corpus.RULES, *sources.RULES, *remote.RULES, *DESCENT),
    trainer=Late("pretrain.rnn.trainer:RnnTrainer"),
    open_data=partial(Late("pretrain.data.check:open_tokens"), Late("pretrain.rnn.data:open_data")),
    summary=Late("pretrain.rnn.check:summary"),
    contents=contents,
    evaluation=evaluation(
        Late("evals.families.rnn:evaluate_rnn"), ("perplexity",), layout=("batch.micro_size",)
    ),
    generation=Generation(Late("pretrain.rnn.generate:generate_command"), OF_TEXT),
)
