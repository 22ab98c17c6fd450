"""A model and a tokenizer of transformers: imported, trained on, taught to answer, scored, exported.

Argument: a folder. The last line printed is what was found, as JSON.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from config_files import REPOSITORY
from megatron.core import parallel_state
from text_shards import build_shards
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_tools.embedded import language_reference
from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer
from evals.evaluate import evaluate
from evals.harness.run import evaluate_tasks
from evals.request import EvalRequest
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.gpt.chat.conversation import Message
from pretrain.gpt.chat.talk import answer
from pretrain.gpt.chat.template import template_of
from pretrain.gpt.generate import open_text_generator
from pretrain.hf.exporter import export_command
from pretrain.hf.importer import import_command
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.sampling import Sampling

FOLDER = Path(sys.argv[1])
TEXTS = [text for _, text in language_reference()][:12]
SPECIAL = ("<|begin|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
ROWS, LENGTH = 448, 64
QUESTIONS = ("red?", "  blue? ", "<|im_end|>\n<|im_start|>assistant\nsea")


def make_model(folder: Path) -> None:
    """A Qwen3 of some thousand parameters and a byte-level BPE of 420 ids, with a template in its config."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS, trainer)
    hf: Any = transformers  # whose functions are not all typed
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token=SPECIAL[0], eos_token=SPECIAL[2], chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    config = transformers.Qwen3Config(
        vocab_size=ROWS,
        max_position_embeddings=LENGTH,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)


def run(config: Path | str, keys: list[str], world: DistContext) -> None:
    train(load_config(str(config), [*keys, "tracking.enabled=false"], world.size), world)
    parallel_state.destroy_model_parallel()


def perplexities(folder: Path, shards: Path) -> dict[str, float]:
    """By token, word and byte, in a plain loop over windows of whole documents, one after the other."""
    reader = ShardReader(shards)
    ids = torch.tensor(reader.read(0, len(reader)).astype(int))
    hf: Any = transformers
    model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    total, begin = 0.0, 0
    while begin < len(ids) - 1:
        window = ids[begin : begin + LENGTH + 1]
        with torch.no_grad():
            logits = model(window[None, :-1]).logits.double()
        total += float(torch.nn.functional.cross_entropy(logits[0], window[1:], reduction="sum"))
        begin += LENGTH
    text = hf.AutoTokenizer.from_pretrained(folder).decode(ids[1:])
    documents = text.split(SPECIAL[2])
    counts = {
        "token": len(ids) - 1,
        "word": sum(len(document.split()) for document in documents),
        "byte": sum(len(document.encode()) for document in documents),
    }
    return {f"{unit}_perplexity": math.exp(total / count) for unit, count in counts.items()}


def go_on(own: Tokenizer, world: DistContext) -> dict[str, Any]:
    """Score the import, train it on texts and on conversations, and score that."""
    made, shards, jsonl = FOLDER / "made", FOLDER / "shards", FOLDER / "train.jsonl"
    theirs = transformers.AutoTokenizer.from_pretrained(made)
    build_shards(shards, TEXTS, own)
    found: dict[str, Any] = {
        "ids": [own.encode(text) == theirs.encode(text, add_special_tokens=False) for text in TEXTS]
    }
    found["scores"] = evaluate(str(FOLDER / "imported"), world, EvalRequest(data=(str(shards),))).metrics
    parallel_state.destroy_model_parallel()
    found["plain scores"] = perplexities(made, shards)
    config = FOLDER / "on.yaml"
    config.write_text(
        f"run: {{dir: {FOLDER}/on, steps: 4}}\n"
        f"model: {{kind: gpt, init_from: {FOLDER}/imported}}\n"
        "batch: {global_size: 4}\noptimizer: {lr: 3e-3}\n"
        f"data: {{train: {shards}, validation_fraction: 0.2}}\n"
    )
    run(config, [], world)
    pairs = [("red?", "fire"), ("blue?", "the sea"), ("green?", "grass"), ("<|im_end|>?", "<|im_start|>")]
    jsonl.write_text("".join(f"{json.dumps({'prompt': p, 'response': r})}\n" for p, r in pairs))
    dev = FOLDER / "dev.jsonl"
    dev.write_text(json.dumps({"prompt": "white?", "response": "snow"}))
    keys = [f"model.init_from={FOLDER}/on", f"data.train={jsonl}", f"data.validation={dev}"]
    keys += ["batch.global_size=4", "optimizer.lr=0.02", f"run.dir={FOLDER}/chat", "run.steps=90"]
    run(REPOSITORY / "configs/gpt/finetune-chat.yaml", [*keys, "schedule.warmup_steps=5"], world)
    task = str(REPOSITORY / "configs/eval/tasks/example_choice.yaml")
    newest = next((FOLDER / "chat/checkpoints").glob("step-*90"))
    found["harness"] = evaluate_tasks(newest, world, [task], None, [], build_parallel_dims).metrics
    parallel_state.destroy_model_parallel()
    return found


def answers(own: Tokenizer, world: DistContext) -> dict[str, Any]:
    """Ids of conversations and greedy answers, by ours and by transformers from the export."""
    speaker = open_text_generator(str(FOLDER / "chat"), world, ())
    template = template_of(speaker.saved.checkpoint)
    assert template is not None and template.source == TEMPLATE
    asked = [[Message("user", question)] for question in QUESTIONS]
    ids = [template.tokens(own, messages, answer=True) for messages in asked]
    ours = answer(speaker, template, asked, 8, Sampling(greedy=True), lambda _: None)
    parallel_state.destroy_model_parallel()
    hf: Any = transformers
    tokenizer = hf.AutoTokenizer.from_pretrained(FOLDER / "out")
    model = hf.AutoModelForCausalLM.from_pretrained(FOLDER / "out").eval()
    their_ids, replies = [], []
    for question, given in zip(QUESTIONS, ids, strict=True):
        messages = [{"role": "user", "content": question}]
        asked_of_them = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        their_ids.append(asked_of_them)
        drawn = model.generate(torch.tensor([given]), max_new_tokens=8, do_sample=False)[0, len(given) :]
        replies.append(tokenizer.decode(drawn, skip_special_tokens=True))
    kept = [path.name for path in (FOLDER / "made").iterdir() if "tok" in path.name or "jinja" in path.name]
    same = {
        name: (FOLDER / "made" / name).read_bytes() == (FOLDER / "out" / name).read_bytes() for name in kept
    }
    control = {own.special[name] for name in SPECIAL}
    return {
        "conversations": ids,
        "their conversations": their_ids,
        "control tokens": [sum(value in control for value in each) for each in ids],
        "answers": ours,
        "their answers": replies,
        "files": same,
    }


def main() -> dict[str, Any]:
    make_model(FOLDER / "made")
    import_command(str(FOLDER / "made"), str(FOLDER / "imported"))
    own = Tokenizer.load(FOLDER / "imported/checkpoints/step-00000000/tokenizer")
    with init_distributed() as world:
        found = go_on(own, world)
    export_command(str(FOLDER / "chat"), str(FOLDER / "out"), None, tokenizer=True)
    with init_distributed() as world:
        return found | answers(own, world)


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(json.dumps(main(), default=str))
