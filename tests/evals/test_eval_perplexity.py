"""Counting text, the formulas, the config of an evaluation and the result file."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_shards import build_shards

import evals.text
from data_tools.reader import ShardReader
from data_tools.tokenizer import byte_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from evals.config import evaluation_config
from evals.perplexity import DEFINITIONS, perplexities
from evals.result import Result, require_writable, write_text
from evals.text import TextSize, text_size
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import GptConfig
from pretrain.errors import HealthError, UserError

TEXTS = ["one two\nthree  ", "été\u2003naïve \U0001f600\U0001f600 end", "x" * 300, " \t\n", "last words here"]


@pytest.mark.parametrize("model_type", ["byte", "char", "bpe"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_size_of_whole_documents_is_that_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, chunk: int
) -> None:
    tokenizer = train_tokenizer(TEXTS, model_type, 300 if model_type == "bpe" else None)
    reader = ShardReader(build_shards(tmp_path / "shards", TEXTS, tokenizer, block_tokens=13))
    monkeypatch.setattr(evals.text, "CHUNK_TOKENS", chunk)
    size = text_size([(reader, 0, len(reader))], tokenizer)
    assert size == TextSize(reader.index.bytes, reader.index.words)
    assert size == TextSize(sum(len(t.encode()) for t in TEXTS), sum(len(t.split()) for t in TEXTS))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return ShardReader(build_shards(tmp_path_factory.mktemp("text") / "shards", TEXTS))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_size_of_a_part_is_that_of_its_text(reader: ShardReader, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(reader)))
    stop = data.draw(st.integers(start, len(reader)))
    raw = bytes(b if b < 256 else 0x1E for b in reader.read(start, stop).tolist())  # 0x1E separates words
    ends = raw.count(0x1E)
    expected = TextSize(len(raw) - ends, len(raw.decode("utf-8", "replace").split()))
    assert text_size([(reader, start, stop)], byte_tokenizer()) == expected


def test_words_and_bytes_of_several_ranges_add_up(reader: ShardReader) -> None:
    whole = text_size([(reader, 0, len(reader))] * 2, byte_tokenizer())
    assert whole == TextSize(2 * reader.index.bytes, 2 * reader.index.words)


def test_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    found = perplexities(1000 * math.log(256), 1000, TextSize(bytes=1000, words=200))
    assert found["token_perplexity"] == pytest.approx(256)
    assert found["byte_perplexity"] == pytest.approx(256)
    assert found["word_perplexity"] == pytest.approx(256.0**5)
    assert found["bits_per_byte"] == pytest.approx(8)
    assert found["validation_loss"] == pytest.approx(math.log(256))
    assert (found["tokens_scored"], found["words"], found["bytes"]) == (1000, 200, 1000)
    assert set(found) <= set(DEFINITIONS)


def test_text_without_words_or_bytes_has_no_such_perplexity() -> None:
    assert "word_perplexity" not in perplexities(5.0, 5, TextSize(bytes=4, words=0))
    assert "bits_per_byte" not in perplexities(5.0, 5, TextSize(bytes=0, words=0))
    assert perplexities(5000.0, 5, TextSize(bytes=4, words=1))["word_perplexity"] == math.inf


@pytest.mark.parametrize("nll", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_result(nll: float) -> None:
    with pytest.raises(HealthError, match="not finite"):
        perplexities(nll, 10, TextSize(10, 2))


def test_result_file_is_strict_json(tmp_path: Path) -> None:
    metrics = {"token_perplexity": 3.5, "word_perplexity": math.inf, "tokens_scored": 7}
    result = Result("run/checkpoints/step-1", 1, metrics, {"stride": 8})
    write_text(str(tmp_path / "r.json"), result.to_json())

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    document = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert document == {
        "checkpoint": "run/checkpoints/step-1",
        "step": 1,
        "metrics": {"token_perplexity": 3.5, "word_perplexity": "Infinity", "tokens_scored": 7},
        "spec": {"stride": 8},
    }


def test_a_result_file_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--json .*missing does not exist"):
        require_writable(str(tmp_path / "missing" / "r.json"))
    with pytest.raises(UserError, match="is a folder"):
        require_writable(str(tmp_path))


@pytest.fixture
def saved_config(tmp_path: Path) -> Path:
    config = GptConfig.model_validate(
        {
            "run": {"dir": "run", "steps": 10},
            "model": {"kind": "gpt", "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
            "batch": {"global_size": 6, "micro_size": 3, "sequence_length": 16},
            "parallel": {"tensor": 2, "sequence": True, "recompute": "full", "distributed_optimizer": True},
            "optimizer": {"lr": 1e-3},
            "data": {"train": ({"path": "a"},), "validation": ({"path": "b"},), "tokenizer": "gone"},
            "eval": {"max_windows": 5},
        }
    )
    (tmp_path / "config.resolved.yaml").write_text(config_to_yaml(config))
    return tmp_path / "config.resolved.yaml"


def test_layout_of_training_is_not_taken_over(saved_config: Path) -> None:
    config = evaluation_config(saved_config, [], 1, data=())
    assert config.parallel == type(config.parallel)()
    assert (config.eval.max_windows, config.data.tokenizer) == (5, None)
    assert evaluation_config(saved_config, [], 5, data=()).batch.micro_size == 3
    assert evaluation_config(saved_config, [], 1, data=["c"]).eval.max_windows is None


def test_overrides_choose_the_layout(saved_config: Path) -> None:
    given = ["parallel.tensor=2", "parallel.pipeline=2", "parallel.virtual_pipeline=2", "batch.micro_size=2"]
    config = evaluation_config(saved_config, given, 4, data=())
    assert (config.parallel.tensor, config.parallel.pipeline, config.parallel.virtual_pipeline) == (2, 2, 2)
    assert config.batch.micro_size == 2
    assert evaluation_config(saved_config, ["eval.max_windows=9"], 1, data=["c"]).eval.max_windows == 9


@pytest.mark.parametrize(
    ("overrides", "world", "message"),
    [
        (["optimizer.lr=1"], 1, r"optimizer\.lr has no effect on an evaluation"),
        (["paralel.tensor=2"], 2, r"did you mean 'parallel\.tensor'"),
        (["parallel.tensor=3"], 3, r"does not divide model\.num_attention_heads 4"),
        (["parallel.tensor=2"], 3, r"3 processes"),
        (["parallel.sequence=true"], 1, r"parallel\.sequence"),
        (["batch.micro_size=many"], 1, r"batch\.micro_size"),
    ],
)
def test_wrong_overrides_are_refused(
    saved_config: Path, overrides: list[str], world: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluation_config(saved_config, overrides, world, data=())


def test_remedies_are_those_of_an_evaluation(saved_config: Path) -> None:
    with pytest.raises(UserError) as error:
        evaluation_config(saved_config, ["parallel.tensor=3"], 2, data=())
    assert "nearest legal: processes 3" in str(error.value)
    assert "legal: model" not in str(error.value) and "; model" not in str(error.value)


def test_a_cache_may_be_for_what_is_scored_alone(saved_config: Path) -> None:
    cache = ["data.cache_dir=cache"]
    found = evaluation_config(saved_config, cache, 1, data=["s3://bucket/c"])
    assert found.data.cache_dir == "cache"
    with pytest.raises(UserError, match=r"data\.cache_dir.*has no effect on shards that are not named by"):
        evaluation_config(saved_config, cache, 1, data=["c"])


def test_data_keys_have_no_effect_beside_data(saved_config: Path) -> None:
    with pytest.raises(UserError, match=r"data\.validation has no effect with --data"):
        evaluation_config(saved_config, ["data.validation=c"], 1, data=["c"])
