"""Bytes of weights, gradients and optimizer states: what the plan says, and what real ranks allocate."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from ranks import run_ranks

from pretrain.config.load import load_config, require_kind
from pretrain.config.sections import TextConfig
from pretrain.kinds import kind_of
from pretrain.plan.states import rank_states

WORKER = Path(__file__).with_name("states_worker.py")
VOCABULARY = 300
TP, PP, CP = "parallel.tensor=2", "parallel.pipeline=2", "parallel.context=2"
DO, SP = "parallel.distributed_optimizer=true", "parallel.sequence=true"
OVERLAP = "parallel.overlap_grad_reduce=true"
VPP = [PP, "parallel.virtual_pipeline=2"]
BF16, ROTARY = "precision=bf16", "model.position_embedding=rotary"
LLAMA = [
    ROTARY,
    BF16,
    "model.normalization=rmsnorm",
    "model.activation=swiglu",
    "model.bias=false",
    "model.tie_embeddings=false",
    "model.num_query_groups=2",
]
GPT: dict[str, list[str]] = {
    "DP4": [],
    "DP4 sharded": [DO],
    "DP4 sharded, bf16": [DO, BF16],
    "DP4 sharded, overlap": [DO, BF16, OVERLAP],
    "TP2 DP2": [TP],
    "TP2 DP2 SP sharded, bf16": [TP, SP, DO, BF16],
    "PP2 DP2 sharded, bf16": [PP, DO, BF16],
    "PP2 VPP2 DP2 sharded": [*VPP, DO],
    "PP4, bf16": ["parallel.pipeline=4", BF16],
    "TP2 PP2, bf16": [TP, PP, BF16],
    "TP2 PP2 VPP2": [TP, *VPP],
    "TP4": ["parallel.tensor=4"],
    "CP2 DP2 sharded, bf16": [CP, DO, BF16],
    "TP2 CP2 SP sharded": [TP, SP, CP, DO],
    "Llama, TP2 PP2": [TP, PP, *LLAMA],
    "Llama, DP4 sharded": [DO, *LLAMA],
}
BERT = {"BERT, TP2 DP2 sharded, bf16": [TP, DO, BF16], "BERT, PP2 DP2": [PP]}
RANKS = 4


def write_config(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/run, steps: 10}}
model: {{kind: {kind}, num_layers: 4, hidden_size: 24, num_attention_heads: 4}}
batch: {{global_size: 8, micro_size: 1, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
data: {{train: {folder}/shards}}
"""
    )
    return path


@pytest.mark.slow
def test_what_real_ranks_allocate_is_what_the_plan_says(tmp_path: Path) -> None:
    """Every byte on every rank, in one world of real processes that is used again for each layout."""
    configs = {kind: str(write_config(tmp_path, kind)) for kind in ("gpt", "bert")}
    layouts = {name: (configs["gpt"], overrides) for name, overrides in GPT.items()}
    layouts |= {name: (configs["bert"], overrides) for name, overrides in BERT.items()}
    argument = {"vocabulary": VOCABULARY, "layouts": layouts, "output": f"{tmp_path}/held"}
    done = run_ranks(WORKER, RANKS, argument)
    assert done.returncode == 0, done.stderr
    for rank in range(RANKS):
        allocated = json.loads(Path(f"{tmp_path}/held-{rank}.json").read_text())
        for name, (path, overrides) in layouts.items():
            planned = require_kind(load_config(path, overrides, RANKS).config, TextConfig, "this test")
            states = rank_states(planned, VOCABULARY, rank, RANKS, kind_of(planned).spec)
            everything = allocated[name].pop("everything")
            assert allocated[name] == asdict(states), (name, rank)
            # Nothing else stays but small constants, such as rotary frequencies.
            assert states.total <= everything <= states.total + 2048, (name, rank, states.total, everything)
