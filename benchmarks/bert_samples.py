"""Samples a second of a BERT's sample builder, against what the training step that they are for takes.

    python benchmarks/bert_samples.py [--quick]

One process and one thread build the batches of a small BERT (2 layers, hidden 128, sequence 128, batch 64):
segment pairs, truncation, masks, tensors. The step is the forward and backward pass and the update of the
same batches by the same process, so that its data are counted in it too.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

from data_tools.builder import BuildOptions, build
from data_tools.embedded import language_reference
from data_tools.train_tokenizer import train_tokenizer
from pretrain.bert.data.text import BertTrainingData
from pretrain.bert.trainer import BertTrainer
from pretrain.config.sections import BertConfig
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed

VOCAB, BATCH, SEQUENCE, BATCHES_A_TURN = 2000, 64, 128, 40
MASKINGS = ("token", "whole_word", "span")


def make_shards(folder: Path) -> Path:
    """The language reference, with sentences."""
    texts = [" ".join(text.split()) for _, text in language_reference()]
    train_tokenizer(texts, "bpe", VOCAB, bert=True).save(folder / "tokenizer")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    inputs = (str(folder / "text.jsonl"),)
    shards = folder / "shards"
    build(BuildOptions(inputs, str(folder / "tokenizer"), str(shards), workers=1, sentences="split"))
    return shards


def config_of(folder: Path, masking: str) -> BertConfig:
    """The small BERT."""
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "steps": 1_000_000},
        "model": {"kind": "bert", "num_layers": 2, "hidden_size": 128, "num_attention_heads": 4},
        "batch": {"global_size": BATCH, "micro_size": BATCH, "sequence_length": SEQUENCE},
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "constant"},
        "data": {"train": ({"path": str(folder / "shards")},), "masking": masking},
        "tracking": {"enabled": False},
    }
    return BertConfig.model_validate(tree)


def measure(quick: bool) -> Report:
    """Let the builder, with each kind of masking, and the step take turns."""
    torch.set_num_threads(1)
    rounds, steps = (3, 1) if quick else (9, 5)
    with tempfile.TemporaryDirectory() as name, init_distributed(RankInfo(0, 1, 0, "alone")) as world:
        folder = Path(name)
        make_shards(folder)
        trainer = BertTrainer(config_of(folder, "token"), world)
        numbers = iter(range(1 << 40))
        turns = {"training step": lambda: timed(lambda: [trainer.step(next(numbers)) for _ in range(steps)])}
        for masking in MASKINGS:
            data = BertTrainingData.from_config(config_of(folder, masking))
            turns[f"builder, {masking}"] = lambda data=data: timed(
                lambda: [data.batch(next(numbers), 0, 0, 1) for _ in range(BATCHES_A_TURN)]
            )
        found = take_turns(turns, rounds)
    batches = {name: steps if name == "training step" else BATCHES_A_TURN for name in found}
    each = {name: [taken / batches[name] for taken in seconds] for name, seconds in found.items()}
    rows = [(name, spread([BATCH / s for s in seconds], ",.0f")) for name, seconds in each.items()]
    question = (
        f"Batches of {BATCH} samples of {SEQUENCE} tokens; 2 layers, hidden 128, {VOCAB:,} ids, fp32; one "
        f"thread. Median (middle half) of {rounds} turns."
    )
    targets = [
        Target(
            f"builder, {masking} / step's demand",
            ratio(each["training step"], each[f"builder, {masking}"]),
            10,
        )
        for masking in MASKINGS
    ]
    return Report("bert_samples", question, [Table(("what", "samples/s"), rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
