"""Rules between keys of a run that fine-tunes a model: any one, an encoder, a GPT on conversations."""

from pretrain.config.rule import Rule, Setup, only_beside, unless
from pretrain.config.sections import ChatConfig, FinetuneConfig

ENCODER: tuple[Rule[FinetuneConfig], ...] = (
    Rule(
        name="fine-tuning has whole sequences",
        key="parallel.context",
        holds=lambda s: s.config.parallel.context == 1,
        message=(
            "{parallel.context} has no place in fine-tuning, where examples are short; set it to "
            "1, and use tensor or data parallelism"
        ),
        remedies={"parallel.context": lambda s: [1]},
    ),
)

RULES: tuple[Rule[FinetuneConfig | ChatConfig], ...] = (
    only_beside("validating needs a development file", "eval.every", "data.validation"),
    Rule(
        name="the development file is not trained on",
        key="data.validation",
        applies=lambda s: s.config.data.validation is not None,
        holds=lambda s: s.config.data.validation != s.config.data.train,
        message=("'{data.validation}' is also data.train: the score would be that of data seen in training"),
    ),
)


def _messages(setup: Setup[ChatConfig]) -> bool:
    return setup.config.data.messages is not None


CHAT: tuple[Rule[ChatConfig], ...] = tuple(
    unless(f"messages have roles and no {key}", f"data.{key}", _messages, "has no effect with data.messages")
    for key in ("prompt", "response")
)
