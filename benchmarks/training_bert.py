"""Tokens a second of pretraining, ours against Hugging Face's `BertForPreTraining` of the same size.

    python benchmarks/training_bert.py [--quick]

Each contender lives in a process of its own; one trains at a time, with two threads. Ours is a whole
`Trainer.step`: segment pairs and masks drawn from shards, both losses, reductions, verdicts, AdamW. The other
is the loop that a user would write, on batches that lie ready in memory: forward with labels, backward,
clipping, fused AdamW.
"""

import json
import tempfile
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import yaml
from corpus import prose
from measure import Report, Table, Target, main, ratio
from race import THREADS, Contender, Seat, Step, race, rows_of
from torch import nn

from data_tools.builder import BuildOptions, build
from data_tools.train_tokenizer import train_tokenizer
from pretrain.bert.data.rows import BertBatch
from pretrain.config.load import load_config

VOCAB, LAYERS, HEADS, HIDDEN, LENGTH, BATCH = 4096, 4, 4, 256, 128, 8
READY = 16
"""Batches that the other contender goes round."""
PRECISIONS, STEPS_A_TURN = ("fp32", "bf16"), 4


def bert_config(folder: Path, precision: str) -> Any:
    """Post-LN and exact GELU, as Hugging Face's."""
    tree = {
        "run": {"dir": str(folder / "run"), "steps": 1_000_000},
        "model": {
            "kind": "bert",
            "num_layers": LAYERS,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "norm_position": "post",
        },
        "batch": {"global_size": BATCH, "micro_size": BATCH, "sequence_length": LENGTH},
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "constant"},
        "data": {"train": str(folder / "shards")},
        "tracking": {"enabled": False},
        "precision": precision,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_config(str(path), (), 1).config


def our_step(_: Seat, folder: Path, precision: str, stack: ExitStack) -> Step:
    """The step of our trainer in a world of one."""
    from pretrain.bert.trainer import BertTrainer
    from pretrain.distributed.launcher import RankInfo
    from pretrain.distributed.world import init_distributed

    config = bert_config(folder, precision)
    trainer = BertTrainer(config, stack.enter_context(init_distributed(RankInfo(0, 1, 0, "alone"))))
    numbers = iter(range(1_000_000))
    return lambda: trainer.step(next(numbers))


def arguments(batch: BertBatch) -> dict[str, torch.Tensor]:
    """A batch as Hugging Face takes it."""
    return {
        "input_ids": batch.tokens,
        "token_type_ids": batch.token_types,
        "attention_mask": batch.padding_mask.long(),
        "labels": torch.where(batch.loss_mask > 0, batch.labels, -100),
        "next_sentence_label": batch.next_sentence,
    }


def hugging_face_step(_: Seat, folder: Path, precision: str, __: ExitStack) -> Step:
    """`BertForPreTraining` without dropout; autocast is how such a loop trains in bf16."""
    from transformers import BertConfig, BertForPreTraining

    from pretrain.bert.data.text import BertTrainingData

    data = BertTrainingData.from_config(bert_config(folder, precision))
    ready = cycle([arguments(data.batch(step, 0, 0, 1)) for step in range(READY)])
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    model = BertForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**next(ready)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


def build_shards(folder: Path) -> None:
    """English prose in sentences, with a tokenizer of its own."""
    texts = prose()
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in texts))
    train_tokenizer(texts, "bpe", VOCAB, bert=True).save(folder / "tokenizer")
    build(
        BuildOptions(
            (str(text),), str(folder / "tokenizer"), str(folder / "shards"), workers=1, sentences="split"
        )
    )


def measure(quick: bool) -> Report:
    """Let both take turns in each precision."""
    rounds = 3 if quick else 25
    rows: list[tuple[str, ...]] = []
    targets = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_shards(folder)
        for precision in PRECISIONS:
            racing = {"ours": our_step, "Hugging Face": hugging_face_step}
            found = race(
                {name: Contender(make, (folder, precision)) for name, make in racing.items()},
                rounds,
                STEPS_A_TURN,
            )
            rows += rows_of(found, BATCH * LENGTH, (precision,))
            what = f"{precision}: tokens/s, ours / Hugging Face"
            targets.append(Target(what, ratio(found["Hugging Face"], found["ours"]), 1.0))
    question = (
        f"Pretraining a BERT of {LAYERS} layers, hidden {HIDDEN}, {HEADS} heads, sequence {LENGTH}, batch "
        f"{BATCH}, vocabulary {VOCAB:,}, masked tokens and next sentences: one process, {THREADS} threads. "
        "Ours computes logits at the chosen positions alone, Hugging Face's at all. bf16: ours keeps bf16 "
        "weights with fp32 masters, the other autocasts fp32 weights. Tokens count padding. Median "
        f"(middle half) of {rounds} turns of {STEPS_A_TURN} steps; `ours / this` is of tokens/s."
    )
    header = ("precision", "contender", "tokens/s", "ms a step", "ours / this")
    return Report("training-bert", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
