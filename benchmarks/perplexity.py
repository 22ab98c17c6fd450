"""Tokens a second of scoring a text, against the same windows through transformers on the exported model.

    python benchmarks/perplexity.py [--quick]

The Llama of `generation.py` scores random tokens in windows of 256, in batches of eight and of one, from
shards and with every count that a perplexity needs. transformers gets its batches ready-made and returns the
mean loss of each. One process and two threads each; both take turns, and must agree on the loss.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from corpus import random_shards, small_tokenizer
from generation import SEQUENCE, SHAPE, VOCABULARY, write_model
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

from pretrain.config.sections import GptConfig, ParallelConfig
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed
from pretrain.gpt.data import ValidationData
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.restore import load_model, open_saved_model
from pretrain.megatron.score import score


def data_of(config: GptConfig, shards: Path, windows: int, batch: int) -> tuple[GptConfig, ValidationData]:
    """The config with these windows in batches of `batch`, and the windows."""
    tree = config.model_dump(by_alias=True)
    tree["data"] = {"train": str(shards), "validation": [str(shards)]}
    tree["batch"] |= {"global_size": batch, "micro_size": batch}
    tree["eval"]["max_windows"] = windows
    config = GptConfig.model_validate(tree)
    data = ValidationData.from_config(config)
    assert data is not None
    return config, data


@torch.no_grad()
def by_transformers(model: Any, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The mean loss."""
    losses = [
        torch.nn.functional.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), labels.flatten())
        for tokens, labels in batches
    ]
    return float(torch.stack(losses).mean())


def measure(quick: bool) -> Report:
    """Both, in turns."""
    import transformers

    torch.set_num_threads(2)
    rounds, windows = (2, 8) if quick else (7, 32)
    rows, targets = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        shards = random_shards(folder / "shards", small_tokenizer(VOCABULARY), 2 * windows * SEQUENCE)
        theirs = transformers.LlamaForCausalLM.from_pretrained(folder / "out").eval()
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world:
            saved = open_saved_model(folder / "run")
            assert isinstance(saved.config, GptConfig)
            layout = build_parallel_dims(world, ParallelConfig())
            for size in (8, 1):
                config, data = data_of(saved.config, shards, windows, size)
                ours = load_model(saved, config, layout, GptSpec(config, layout))
                batches = [(batch.tokens, batch.labels) for batch in data.micro_batches(0, 1, size)]
                turns = {
                    "ours": lambda ours=ours, data=data: score(ours, data).loss,
                    "transformers": lambda batches=batches: by_transformers(theirs, batches),
                }
                one, other = turns["ours"](), turns["transformers"]()
                assert math.isclose(one, other, rel_tol=1e-5), f"losses differ: {one}, {other}"
                found = take_turns({who: lambda act=act: timed(act) for who, act in turns.items()}, rounds)
                rates = {who: [data.tokens / s for s in seconds] for who, seconds in found.items()}
                factor = ratio(rates["ours"], rates["transformers"])
                rows.append((str(size), *(spread(rate, ",.0f") for rate in rates.values()), f"{factor:.2f}"))
                targets.append(Target(f"ours / transformers, batch {size}", factor, 1.0))
    question = (
        f"Scoring {windows} windows of {SEQUENCE} tokens, tokens/s; {SHAPE['num_layers']} layers, hidden "
        f"{SHAPE['hidden_size']}, vocabulary {VOCABULARY:,}, fp32, two threads. Median (middle half) of "
        f"{rounds} turns."
    )
    return Report("perplexity", question, [Table(("batch", "ours", "transformers", "ratio"), rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
