"""Drawing tokens from hand-made logits, and text from checkpoints that real training commands wrote."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from config_files import small_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ranks import run_pretrain, run_ranks
from text_shards import build_shards

from data_tools.tokenizer import byte_tokenizer
from pretrain.checkpoint.tensors import TensorSource
from pretrain.errors import HealthError, UserError
from pretrain.gpt.generate import layout_for
from pretrain.hf.new_run import write_run
from pretrain.hf.registry import architecture_of
from pretrain.sampling import Sampling, choose

WORKER = Path(__file__).with_name("generate_worker.py")
PROBABILITIES = (0.15, 0.5, 0.1, 0.25)
LENGTH = 32
ALPHABET = "abcdefghijklmnopqrstuvwxyz"

a_logit = st.floats(-50, 50, width=32)


def drawn(sampling: Sampling, probabilities: tuple[float, ...] = PROBABILITIES) -> list[float]:
    """Shares of 4,000 draws."""
    logits = torch.tensor(probabilities).log() + 3.0  # a constant changes nothing
    generator = torch.Generator().manual_seed(sampling.seed)
    counts = Counter(choose(logits, sampling, generator) for _ in range(4000))
    return [counts[token] / 4000 for token in range(len(probabilities))]


def near(*shares: float) -> Any:
    """Four standard deviations of a share of 4,000 draws."""
    return pytest.approx(shares, abs=4 * math.sqrt(0.25 / 4000))


def test_draws_follow_the_probabilities() -> None:
    assert drawn(Sampling()) == near(*PROBABILITIES)


def test_temperature_is_a_power_of_the_probabilities() -> None:
    for temperature in (0.5, 2.0):
        powers = [probability ** (1 / temperature) for probability in PROBABILITIES]
        expected = [power / sum(powers) for power in powers]
        assert drawn(Sampling(temperature=temperature)) == near(*expected)


def test_top_k_keeps_the_k_likeliest() -> None:
    shares = drawn(Sampling(top_k=2))
    assert shares == near(0, 2 / 3, 0, 1 / 3)
    assert shares[0] == shares[2] == 0
    assert drawn(Sampling(top_k=100)) == near(*PROBABILITIES)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, {1}), (0.45, {1}), (0.55, {1, 3}), (0.8, {0, 1, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_hold_it(top_p: float, kept: set[int]) -> None:
    shares = drawn(Sampling(top_p=top_p))
    mass = sum(PROBABILITIES[token] for token in kept)
    assert shares == near(*(PROBABILITIES[token] / mass if token in kept else 0 for token in range(4)))
    assert {token for token, share in enumerate(shares) if share} == kept


def test_top_p_judges_what_top_k_left() -> None:
    # Of the two that top-k leaves, the first holds 2/3: alone it reaches 0.6, which it does not in the whole.
    assert drawn(Sampling(top_k=2, top_p=0.6)) == near(0, 1, 0, 0)
    assert drawn(Sampling(top_p=0.6)) == near(0, 2 / 3, 0, 1 / 3)


@given(st.lists(a_logit, min_size=1, max_size=40), st.integers(0, 2**32), st.floats(1e-3, 1e3))
@example([0.0, 1e-17], 0, 1.0)  # the same probability
@settings(deadline=None)
def test_top_k_of_one_is_greedy(values: list[float], seed: int, temperature: float) -> None:
    logits = torch.tensor(values)
    generator = torch.Generator().manual_seed(seed)
    token = choose(logits, Sampling(top_k=1, temperature=temperature), generator)
    assert token == choose(logits, Sampling(greedy=True), generator) == values.index(max(values))


@given(st.lists(a_logit, min_size=1, max_size=40), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_seed_decides(values: list[float], seed: int) -> None:
    logits = torch.tensor(values)
    first, second = (
        [choose(logits, Sampling(), generator) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(seed) for _ in range(2))
    )
    assert first == second


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e40, 1e300])
def test_no_temperature_overflows(temperature: float) -> None:
    shares = drawn(Sampling(temperature=temperature))
    assert shares == (near(0, 1, 0, 0) if temperature < 1 else near(0.25, 0.25, 0.25, 0.25))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_not_finite_are_refused(value: float, greedy: bool) -> None:
    with pytest.raises(HealthError, match="not finite"):
        choose(torch.tensor([0.0, value]), Sampling(greedy=greedy), torch.Generator())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run folders of the same training on one process, on two, and with attention reset at document ends.

    The text is the alphabet over and over, in documents of 62 letters.
    """
    folder = tmp_path_factory.mktemp("generate")
    build_shards(folder / "shards", [(ALPHABET * 4)[start : start + 62] for start in range(26)] * 4)
    (folder / "config.yaml").write_text(
        f"""
run: {{dir: {folder}/unused, steps: 80}}
model: {{kind: gpt, num_layers: 2, hidden_size: 32, num_attention_heads: 2, position_embedding: rotary}}
batch: {{global_size: 8, micro_size: 8, sequence_length: {LENGTH}}}
optimizer: {{lr: 1e-2}}
data: {{train: {folder}/shards}}
tracking: {{enabled: false}}
"""
    )
    options = {
        "one": [],
        "TP2": ["--processes", "2", "parallel.tensor=2"],
        "reset": ["data.reset_at_document_end=true"],
    }
    for name, extra in options.items():
        done = run_pretrain("train", str(folder / "config.yaml"), f"run.dir={folder / name}", *extra)
        assert done.returncode == 0, done.stderr
    return {name: str(folder / name) for name in options}


def ask(run: str, prompt: str, max_tokens: int = 20, **sampling: Any) -> dict[str, Any]:
    return {"checkpoint": run, "prompts": [prompt], "max_tokens": max_tokens, **sampling}


def texts(*asked: dict[str, Any]) -> tuple[list[str], str]:
    """The first continuation of each, and what was said on standard error."""
    found, said = batches(*asked)
    return [rows[0] for rows in found], said


def batches(*asked: dict[str, Any], processes: int = 1) -> tuple[list[list[str]], str]:
    """The continuations, and what was said on standard error."""
    done = run_ranks(WORKER, processes, asked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_greedy_text_is_what_was_learnt_whatever_layout_wrote_the_checkpoint(runs: dict[str, str]) -> None:
    expected = "ijklmnopqrstuvwxyzabcdef"
    answers, _ = texts(*(ask(runs[name], "abcdefgh", 24, greedy=True) for name in ("one", "TP2", "one")))
    assert answers == [expected] * 3


@pytest.mark.slow
def test_the_seed_decides_the_text(runs: dict[str, str]) -> None:
    drawn: dict[str, Any] = {"temperature": 3.0, "max_tokens": 12}
    seeds = (1, 1, 2)
    answers, _ = texts(
        *(ask(runs["one"], "abc", seed=seed, **drawn) for seed in seeds),
        ask(runs["one"], "abc", top_k=1, temperature=3.0),
        ask(runs["one"], "abc", greedy=True),
    )
    assert answers[0] == answers[1] != answers[2]
    assert answers[3] == answers[4]


@pytest.mark.slow
def test_beyond_the_context_the_last_tokens_count(runs: dict[str, str]) -> None:
    prompt = (ALPHABET * 4)[:90]
    answers, said = texts(
        ask(runs["one"], prompt, greedy=True), ask(runs["one"], prompt[-LENGTH:], greedy=True)
    )
    assert answers[0] == answers[1] != ""
    assert said.count(f"the prompt has 90 tokens; the model sees the last {LENGTH} of them") == 1


@pytest.mark.slow
def test_an_empty_prompt_begins_a_document(runs: dict[str, str]) -> None:
    answers, _ = texts(
        *(ask(runs[name], "", 100, top_k=1) for name in ("one", "reset")),
        ask(runs["reset"], "abcdefgh", 24, greedy=True),
    )
    for text in answers[:2]:
        assert text[:10] in ALPHABET * 2, text
    assert answers[2] == "ijklmnopqrstuvwxyzabcdef"


PROMPTS = ["abc", "", "uvwxyzabcdefghijk", "m", "nopq", "xy"]
"""Of different lengths, so that a batch of them is padded; the third soon reaches beyond the context."""
RANDOM = {
    "learned": {},
    "rotary": {
        "position_embedding": "rotary",
        "normalization": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "num_query_groups": 2,
        "tie_embeddings": False,
    },
}
"""Models with random weights."""


@pytest.fixture(scope="module")
def random_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for name, model in RANDOM.items():
        folder = tmp_path_factory.mktemp(name)
        config = small_config(batch__sequence_length=LENGTH, **{f"model__{k}": v for k, v in model.items()})
        generator = torch.Generator().manual_seed(1)
        sources = []
        for link in architecture_of(config).links(config, 257):
            whole = link.join([torch.randn(shape, generator=generator) * 0.3 for shape in link.shapes])
            sources.append(TensorSource.of(link.key, whole.contiguous()))
        write_run(folder, "a test", config, 257, sources, byte_tokenizer())
        found[name] = str(folder)
    return found


@pytest.mark.slow
def test_a_batch_a_cache_and_a_layout_change_nothing(random_runs: dict[str, str]) -> None:
    how = {"max_tokens": 20, "temperature": 0.7, "seed": 5}
    several = [{**how, "checkpoint": run, "prompts": PROMPTS} for run in random_runs.values()]
    found, _ = batches(
        *(
            {**how, "checkpoint": run, "prompts": [prompt], "seed": 5 + row, "cached": False}
            for run in random_runs.values()
            for row, prompt in enumerate(PROMPTS)
        ),
        *({**asked, "cached": cached} for cached in (True, False) for asked in several),
    )
    singly = [rows[0] for rows in found[:12]]
    assert len({*singly}) == 12
    assert found[12:] == [singly[:6], singly[6:]] * 2
    layouts = ("parallel.tensor=2", "parallel.pipeline=2")
    spread, _ = batches(*({**asked, "overrides": [key]} for key in layouts for asked in several), processes=2)
    assert spread == [singly[:6], singly[6:]] * 2


def test_a_layout_that_does_not_fit_is_refused(random_runs: dict[str, str]) -> None:
    path = f"{random_runs['learned']}/config.resolved.yaml"
    for override, said in {
        "parallel.tensor=2": "are 2 ranks, and this runs on 1: set --processes 2",
        "parallel.pipeline=3": "model.num_layers",
        "parallel.context=2": "parallel.context has no effect on the generation of text",
    }.items():
        with pytest.raises(UserError, match=said):
            layout_for(path, [override], 1)


@pytest.mark.slow
def test_the_command_prints_prompt_and_continuation(runs: dict[str, str]) -> None:
    done = run_pretrain("generate", runs["TP2"], "--prompt", "xyzabc", "--max-tokens", "5", "--greedy")
    assert (done.returncode, done.stdout) == (0, "xyzabcdefgh\n"), done.stderr
    several = ("--prompt", "xyz", "--prompt=abcd", "--max-tokens", "3", "--greedy")
    done = run_pretrain("generate", runs["TP2"], *several, "--processes", "2", "parallel.pipeline=2")
    assert (done.returncode, done.stdout) == (0, "=== 1 of 2\nxyzabc\n=== 2 of 2\nabcdefg\n"), done.stderr


@pytest.mark.slow
def test_a_prompt_that_is_not_text_is_refused(runs: dict[str, str]) -> None:
    done = run_pretrain("generate", runs["one"], "--prompt", "a\udcff", "--max-tokens", "5")
    assert done.returncode == 2
    assert "--prompt 'a\\udcff': text is not valid Unicode" in done.stderr
    assert "Traceback" not in done.stderr
