"""The records of GPTs, pretrained and fine-tuned on conversations: what each command asks of these kinds."""

from functools import partial

from pretrain.config.generate_request import OF_TEXT, GenerateRequest
from pretrain.config.rules import CORPUS, FINETUNE, decoder, finetune
from pretrain.config.sections import ChatConfig, DecoderModelConfig, GptConfig
from pretrain.data.kind import EXPORT, PLAN_OPTIONS, contents, evaluation, summary
from pretrain.kind import LAYOUT_KEYS, Evaluation, Generation, Inheritance, Kind, Late, Planning

PUBLISHED_VOCABULARY = 50_257
"""Ids of GPT-2's tokenizer."""
_SPEC = Late("pretrain.gpt.spec:GptSpec")


def _generate(request: GenerateRequest) -> None:
    chat, plain = Late("pretrain.gpt.chat.talk:chat_command"), Late("pretrain.gpt.generate:generate_command")
    (chat if request.chat else plain)(request)


def _chat_reads(config: ChatConfig, named: bool) -> list[str]:
    return [config.data.validation] if config.data.validation and not named else []


_GENERATION = Generation(_generate, OF_TEXT | {"chat", "processes", "overrides"})
GPT = Kind(
    name="gpt",
    title="a gpt",
    config=GptConfig,
    rules=(*CORPUS, *decoder.RULES),
    inherits=Inheritance(("gpt",), DecoderModelConfig),
    trainer=Late("pretrain.gpt.trainer:GptTrainer"),
    open_data=partial(
        Late("pretrain.megatron.corpus_check:open_corpus"), Late("pretrain.gpt.data:open_data")
    ),
    summary=summary,
    contents=contents,
    spec=_SPEC,
    planning=Planning(
        partial(Late("pretrain.plan.table:show_text_plan"), _SPEC, PUBLISHED_VOCABULARY), PLAN_OPTIONS
    ),
    evaluation=evaluation(
        Late("evals.families.gpt:evaluate_gpt"), ("perplexity", "harness"), options=frozenset({"stride"})
    ),
    generation=_GENERATION,
    export=EXPORT,
)
CHAT = Kind(
    name="gpt-chat",
    title="a gpt-chat",
    config=ChatConfig,
    rules=(*FINETUNE, *decoder.RULES, *finetune.CHAT),
    inherits=Inheritance(("gpt", "gpt-chat"), DecoderModelConfig),
    trainer=Late("pretrain.gpt.chat.trainer:ChatTrainer"),
    open_data=Late("pretrain.gpt.chat.data:check_conversations"),
    summary=summary,
    contents=contents,
    evaluation=Evaluation(
        score=Late("evals.families.chat:evaluate_chat"),
        tasks=("answers", "harness"),
        reads=_chat_reads,
        keys=(
            *LAYOUT_KEYS,
            *(f"data.{key}" for key in ("validation", "prompt", "response", "messages", "too_long")),
        ),
        one_file=True,
    ),
    generation=_GENERATION,
    export=EXPORT,
)
