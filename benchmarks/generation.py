"""Tokens a second of greedy generation, against transformers' `generate` on the exported model.

    python benchmarks/generation.py [--quick]

A Llama (6 layers, hidden 512, vocabulary 8,192, fp32, random weights) goes on from prompts of 64 tokens for
128 more: one text, eight, and eight of different lengths, which are padded. Both sides have a cache, one
process and two threads, and take turns; the texts are compared first.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.sections import GptConfig, ParallelConfig
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed
from pretrain.gpt.generate import generate
from pretrain.gpt.spec import GptSpec
from pretrain.hf.exporter import export_command
from pretrain.hf.new_run import write_run
from pretrain.hf.registry import architecture_of
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.restore import load_model, open_saved_model
from pretrain.sampling import Sampling

VOCABULARY, PROMPT, NEW, SEQUENCE = 8192, 64, 128, 256
EOD = VOCABULARY - 1
SHAPE = {"num_layers": 6, "hidden_size": 512, "num_attention_heads": 8}
GREEDY = Sampling(greedy=True)


def write_model(folder: Path) -> None:
    """A run with random weights, and its export."""
    config = GptConfig.model_validate(
        {
            "run": {"dir": str(folder / "run"), "steps": 1},
            "model": {
                "kind": "gpt",
                "position_embedding": "rotary",
                "normalization": "rmsnorm",
                "activation": "swiglu",
                "bias": False,
                **SHAPE,
            },
            "batch": {"global_size": 1, "sequence_length": SEQUENCE},
            "optimizer": {"lr": 1e-4},
            "data": {"train": "none"},
        }
    )
    torch.manual_seed(0)
    sources = []
    for link in architecture_of(config).links(config, VOCABULARY):
        whole = link.join([torch.randn(shape).mul_(0.05) for shape in link.shapes])
        sources.append(TensorSource.of(link.key, whole + ("norm" in link.key)))
    (folder / "run").mkdir()
    write_run(folder / "run", "nowhere", config, VOCABULARY, sources, None)
    export_command(str(folder / "run"), str(folder / "out"), None, tokenizer=False)


def texts_of(rows: int, *, padded: bool) -> list[list[int]]:
    """Prompts of random ids; `padded`: from half the length on."""
    generator = torch.Generator().manual_seed(rows)
    lengths = [PROMPT - (PROMPT // 2 * row // rows if padded else 0) for row in range(rows)]
    return [torch.randint(0, EOD, (length,), generator=generator).tolist() for length in lengths]


def by_transformers(model: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What `generate` adds to the prompts, after the end of a document as ours begins."""
    whole = [[EOD, *prompt] for prompt in prompts]
    width = max(map(len, whole))
    ids = torch.tensor([[EOD] * (width - len(text)) + text for text in whole])
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in whole])
    answer = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=EOD,
    )
    return [row[width:].tolist() for row in answer]


def measure(quick: bool) -> Report:
    """Both, in turns."""
    import transformers

    torch.set_num_threads(2)
    rounds, count = (2, 8) if quick else (7, NEW)
    cases = {
        "1 text": texts_of(1, padded=False),
        "8 texts": texts_of(8, padded=False),
        "8 texts, padded": texts_of(8, padded=True),
    }
    rows, targets = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        theirs = transformers.LlamaForCausalLM.from_pretrained(folder / "out").eval()
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world:
            saved = open_saved_model(folder / "run")
            layout = build_parallel_dims(world, ParallelConfig())
            ours: PipelineModel = load_model(saved, saved.config, layout, GptSpec(saved.config, layout))
            for case, prompts in cases.items():
                turns = {
                    "ours": lambda prompts=prompts: generate(ours, prompts, EOD, count, GREEDY),
                    "transformers": lambda prompts=prompts: by_transformers(theirs, prompts, count),
                }
                assert turns["ours"]() == turns["transformers"](), f"{case}: the texts differ"
                found = take_turns({who: lambda act=act: timed(act) for who, act in turns.items()}, rounds)
                rates = {who: [len(prompts) * count / s for s in seconds] for who, seconds in found.items()}
                factor = ratio(rates["ours"], rates["transformers"])
                rows.append((case, *(spread(rate, ",.0f") for rate in rates.values()), f"{factor:.2f}"))
                targets.append(Target(f"ours / transformers, {case}", factor, 1.0))
    question = (
        f"Greedy text of {count} tokens after {PROMPT}, tokens/s; {SHAPE['num_layers']} layers, hidden "
        f"{SHAPE['hidden_size']}, vocabulary {VOCABULARY:,}, fp32, two threads. Median (middle half) of "
        f"{rounds} turns."
    )
    return Report("generation", question, [Table(("batch", "ours", "transformers", "ratio"), rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
