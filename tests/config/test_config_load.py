"""Reading a config file: what is refused, at which line, in which words; overrides, bases and sources."""

import pickle
from pathlib import Path

import pytest
from config_files import SHIPPED, SMALL, write_config

from pretrain.config.load import load_config, read_config
from pretrain.config.node import ConfigError, SourceLocation
from pretrain.config.resolved import config_to_yaml, resolved_values
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import GptConfig
from pretrain.errors import IntegrityError, UserError
from pretrain.kinds import RECORDS

VALID = """\
run:
  dir: runs/a
  steps: 100
model:
  kind: gpt
  num_layers: 4
  hidden_size: 64
  num_attention_heads: 4
batch: {global_size: 8, sequence_length: 64}
optimizer:
  lr: 6e-4
data:
  train: data/a
"""


def problems(path: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The problems of a file with this text, without the folder in front of its name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    assert caught.value.exit_code == 2
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


def test_a_valid_file_gives_its_values_and_their_sources(file: Path) -> None:
    file.write_text(VALID)
    loaded = load_config(str(file), ["model.dropout=0.5", "batch.micro_size=4"])
    assert loaded.config.optimizer.lr == 0.0006
    assert loaded.config.model.dropout == 0.5
    assert loaded.config.data.train[0].path == "data/a"
    assert loaded.sources["optimizer.lr"] == SourceLocation("file", str(file), 11)
    assert loaded.sources["batch.global_size"] == SourceLocation("file", str(file), 9)
    assert str(loaded.sources["batch.micro_size"]) == "command line"
    assert str(loaded.sources["schedule.kind"]) == "default"
    assert loaded.text_as_written.startswith(VALID)
    assert "# model.dropout=0.5\n" in loaded.text_as_written
    assert {key for key, _, _ in resolved_values(loaded)} == set(loaded.sources)


def test_every_problem_is_reported_at_once_and_at_its_line(file: Path) -> None:
    text = VALID.replace("hidden_size: 64", 'hiden_size: "64"').replace("steps: 100", "steps: 1e2")
    text = text.replace("kind: gpt", "kind: gtp\n  kind: gpt") + "shedule:\n  kind: cosine\nprecision: f32\n"
    assert problems(file, text, "model.dropout=high") == [
        "a.yaml:3: run.steps: must be a whole number, got 100.0 (write 100)",
        f"a.yaml:5: model.kind: must be {' or '.join(RECORDS)}, got 'gtp' (did you mean 'gpt'?)",
        "a.yaml:6: model.kind: duplicate key; it was given in line 5 already",
        "a.yaml:8: model.hiden_size: unknown key 'hiden_size' (did you mean 'hidden_size'?)",
        "a.yaml:15: shedule: unknown section or key 'shedule' (did you mean 'schedule'?)",
        "a.yaml:17: precision: must be fp32 or bf16, got 'f32' (did you mean 'fp32'?)",
        "command line: model.dropout: must be a number, got 'high'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  steps: 100\n", "", "a.yaml:1: run.steps: required, and missing"),
        ("optimizer:\n  lr: 6e-4\n", "", "a.yaml:1: optimizer: required, and missing"),
        ("steps: 100", "steps: true", "a.yaml:3: run.steps: must be a whole number, got true"),
        ("steps: 100", "steps: '12'", "a.yaml:3: run.steps: must be a whole number, got '12' (write 12)"),
        ("steps: 100", "steps: 1_000", "must be a whole number, got '1_000' (write 1000)"),
        ("steps: 100", "steps: 012", "must be a whole number, got '012' (write 12)"),
        ("steps: 100", "steps: 1:30", "must be a whole number, got '1:30'"),
        ("steps: 100", "steps: 0x10", "must be a whole number, got '0x10'"),
        ("steps: 100", "steps: 0", "must be greater than 0, got 0"),
        ("steps: 100", "steps: -3", "must be greater than 0, got -3"),
        ("steps: 100", f"steps: {'9' * 250}", "must be at most 2147483647, got 999"),
        ("steps: 100", f"steps: {'9' * 5000}", "number too large"),
        ("steps: 100", "steps:", "must be a whole number, got null (nothing is written after the colon"),
        ("lr: 6e-4", "lr: .inf", "must be a finite number, got inf"),
        ("lr: 6e-4", "lr: .nan", "must be a finite number, got nan"),
        ("lr: 6e-4", "lr: 1e999", "must be a finite number, got inf"),
        ("lr: 6e-4", "lr: true", "must be a number, got true"),
        ("lr: 6e-4", "lr: '6e-4'", "must be a number, got '6e-4' (write 0.0006)"),
        ("lr: 6e-4", "lr: [6e-4]", "must be a number, got [0.0006]"),
        ("dir: runs/a", "dir: 12", 'must be text, got 12 (write "12" in quotation marks)'),
        ("dir: runs/a", "dir: ''", "is empty, got ''"),
        ("dir: runs/a", "dir: ~/runs", "'~' and '$' are not expanded in a config; write the path out"),
        ("dir: runs/a", "dir: $HOME/runs", "'~' and '$' are not expanded in a config; write the path out"),
        ("dir: runs/a", 'dir: "a\\0b"', "text holds a control character that no path can, got 'a\\x00b'"),
        (
            "dir: runs/a",
            'dir: "a\\ud800b"',
            "text holds a control character that no path can, got 'a\\ud8",
        ),
        ("kind: gpt", "kind: gpt\n  bias: yes", "must be true or false, got 'yes' (write true)"),
        ("kind: gpt", "kind: gpt\n  bias: off", "must be true or false, got 'off' (write false)"),
        ("kind: gpt", "kind: gpt\n  bias: 1", "must be true or false, got 1"),
        ("  lr: 6e-4\n", "", "a.yaml:10: optimizer: must be a section with keys of its own, got null"),
        ("optimizer:\n  lr: 6e-4", "optimizer: 6e-4", "must be a section with keys of its own, got 0.0006"),
        ("train: data/a", "train: []", "data.train: must name at least one source"),
        ("train: data/a", "train: 3", "must be a path or a list of paths or {path, weight}, got 3"),
        ("train: data/a", "train: [3]", "data.train[0]: must be a section with keys of its own, got 3"),
        (
            "train: data/a",
            "train:\n  - data/a\n  - {path: data/b, wieght: 2}",
            "a.yaml:15: data.train[1].wieght: unknown key 'wieght' (did you mean 'weight'?)",
        ),
        ("train: data/a", "train: [{path: a, weight: 0}]", "data.train[0].weight: must be greater than 0"),
        ("kind: gpt", "kind: gpt\n  lr: 1", "unknown key 'lr' (did you mean 'optimizer.lr'?)"),
        ("kind: gpt", "kind: gpt\n  zzzzz: 1", "unknown key 'zzzzz'; it has: kind, num_layers"),
        ("kind: gpt", "kind: gpt\n  12: 1", "a.yaml:6: model: a key must be text, got '12'"),
        (
            "kind: gpt",
            "kind: gpt\n  [a]: 1",
            "a.yaml:6: model: a key must be text, got 'a list or a mapping'",
        ),
        ("kind: gpt", "kind: !!str gpt", "a.yaml:5: YAML tags are not allowed"),
        ("kind: gpt", "kind: !!python/object/apply:os.system [true]", "a.yaml:5: YAML tags are not allowed"),
        ("kind: gpt", "kind: *model", "a.yaml:5: not readable as YAML: found undefined alias 'model'"),
        ("kind: gpt", "kind: [gpt", "not readable as YAML"),
        ("kind: gpt", "\tkind: gpt", "a.yaml:5: not readable as YAML"),
        ("kind: gpt", "kind: gpt\0", "a.yaml:5: a NUL byte in the text"),
        ("kind: gpt", "kind: gpt\x1b", "a.yaml:5: the control character '\\x1b' in the text"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_meant(file: Path, old: str, new: str, problem: str) -> None:
    assert old in VALID
    found = problems(file, VALID.replace(old, new))
    assert any(problem in one for one in found), found


def test_what_other_keys_there_should_be_is_not_told_of_an_unknown_kind(file: Path) -> None:
    [found] = problems(file, VALID.replace("kind: gpt", "kind: resnet50\n  depth: 50"))
    assert found.startswith("a.yaml:5: model.kind: must be gpt or ") and found.endswith("got 'resnet50'")


@pytest.mark.parametrize(
    "override", ["slurm.time=12h", "slurm.directives=[mail]", "slurm.environment=[A]"], ids=lambda o: o[6:10]
)
def test_a_value_is_told_once(file: Path, override: str) -> None:
    [found] = problems(file, VALID, override)
    assert found.count(", got ") == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "the file is empty"),
        (b"# nothing\n", "the file is empty"),
        (b"- a\n- b\n", "a.yaml:1: a config is a mapping of sections (`model:` ...), got a list"),
        (b"hello", "got 'hello'"),
        (b"run: \xff\n", "a.yaml:1: is not UTF-8 text: byte 0xff at offset 5"),
        (VALID.encode("utf-16"), "is not UTF-8 text"),
        (b"\0" * 100, "a NUL byte"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"a: " + b"{a: " * 50 + b"1" + b"}" * 50, "nested more than 32 deep"),
        (b"a: &a [*a]\n", "an alias contains itself"),
        (b"a: &a {b: *a}\n", "an alias contains itself"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"%YAML 3.0\n---\na: 1\n", "not readable as YAML"),
    ],
)
def test_what_is_no_config_at_all_is_one_message(file: Path, text: bytes, problem: str) -> None:
    found = problems(file, text)
    assert len(found) == 1
    assert problem in found[0]


def test_an_alias_bomb_is_refused_without_being_expanded(file: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "an alias inside an alias?" in problems(file, "\n".join(levels))[0]


def test_anchors_and_merge_keys_work_and_own_keys_win(file: Path) -> None:
    source = "  train:\n    - &one {path: data/a, weight: 2}\n    - {<<: *one, path: data/b}\n"
    file.write_text(VALID.replace("  train: data/a\n", source))
    train = load_config(str(file)).config.data.train
    assert [(one.path, one.weight) for one in train] == [("data/a", 2.0), ("data/b", 2.0)]


def test_a_byte_order_mark_and_windows_line_ends_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_config(str(file)).sources["run.steps"].line == 3


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.droput=0.1", "command line: model.droput: unknown key 'droput' (did you mean 'dropout'?)"),
        ("modle.dropout=0.1", "command line: modle: unknown section or key 'modle' (did you mean 'model'?)"),
        ("dropout=0.1", "unknown section or key 'dropout' (did you mean 'model.dropout'?)"),
        ("model.dropout", "command line: expected section.key=value, got 'model.dropout'"),
        ("=3", "expected section.key=value, got '=3'"),
        ("model..dropout=3", "expected section.key=value"),
        ("a." * 5000 + "a=1", "expected section.key=value"),
        ("model.dropout=", "command line: model.dropout: must be a number, got null"),
        ("model.dropout='0.1'", "must be a number, got '0.1' (write 0.1)"),
        ("model.dropout=[0.1", "command line: model.dropout: not readable as YAML"),
        ("model.dropout=!!float 1", "command line: model.dropout: YAML tags are not allowed"),
        ("run.dir=run #2", "command line: run.dir: 'run #2' is cut short by YAML; put it in quotation marks"),
        ("run.dir.name=x", "command line: run.dir: must be text, got {'name': 'x'}"),
        ("model=null", "command line: model: must be a section with keys of its own, got null"),
        ("base=b.yaml", "command line: base: stands in the file, not on the command line"),
        ("data.train=[{path: a, path: b}]", "duplicate key"),
        (
            "data.train=[0.3, a, 0.7, b]",
            "weights belong to their paths: [{path: a, weight: 0.3}, {path: b, weight: 0.7}]",
        ),
        (
            "data.train=0.3 a 0.7 b",
            "weights belong to their paths: [{path: a, weight: 0.3}, {path: b, weight: 0.7}]",
        ),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, problem: str) -> None:
    found = problems(file, VALID, override)
    assert problem in found[0], found


def test_overrides_take_lists_and_mappings_and_refuse_repetition(file: Path) -> None:
    file.write_text(VALID)
    config = load_config(
        str(file), ["data.train=[a, {path: b, weight: 3}]", "schedule={kind: linear, warmup_steps: 5}"]
    ).config
    assert [(one.path, one.weight) for one in config.data.train] == [("a", 1.0), ("b", 3.0)]
    assert config.schedule.kind == "linear"
    for twice in (["run.seed=1", "run.seed=2"], ["run={seed: 1}", "run.seed=2"]):
        assert "given twice" in problems(file, VALID, *twice)[0]


def test_a_base_is_merged_under_the_file(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "b.yaml").write_text(VALID)
    file = tmp_path / "a.yaml"
    file.write_text("base: bases/b.yaml\nrun:\n  steps: 7\ndata: {train: [x, y]}\n")
    loaded = load_config(str(file))
    assert loaded.config.run.steps == 7
    assert loaded.config.run.dir == "runs/a"
    assert [one.path for one in loaded.config.data.train] == ["x", "y"]
    assert loaded.sources["run.steps"].line == 3
    assert loaded.sources["run.dir"] == SourceLocation("base", str(tmp_path / "bases" / "b.yaml"), 2)
    assert "#   steps: 100" in loaded.text_as_written


def test_problems_of_a_base_are_reported_with_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(VALID.replace("steps:", "stesp:") + "base: c.yaml\n")
    found = problems(tmp_path / "a.yaml", "base: b.yaml\nmodel: {bais: true}\n")
    assert found == [
        "a.yaml:2: model.bais: unknown key 'bais' (did you mean 'bias'?)",
        "b.yaml:3: run.stesp: unknown key 'stesp' (did you mean 'steps'?)",
        "b.yaml:14: base: a.yaml uses this file as its base; a base has none",
    ]


@pytest.mark.parametrize("base", ["nowhere.yaml", ".", "3", "''", "[a.yaml]"])
def test_a_base_that_can_not_be_read_is_named(file: Path, base: str) -> None:
    assert "a.yaml:14: base: " in problems(file, VALID + f"base: {base}\n")[0]


def test_a_file_that_is_its_own_base_is_refused(file: Path) -> None:
    assert "a base has none" in problems(file, VALID + "base: a.yaml\n")[0]


def test_files_that_can_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(VALID)
    (tmp_path / "big.yaml").write_bytes(b"#" * 2_000_000)
    cases = {
        "smal.yaml": "no such config file (did you mean",
        "none/x.yaml": "no such config file",
        ".": "is a directory",
        "big.yaml": "is larger than 1,048,576 bytes",
        "a\0b": "cannot be read",
        "small.yaml/x": "cannot be read: Not a directory",
    }
    for name, message in cases.items():
        with pytest.raises(UserError) as caught:
            read_config(f"{tmp_path}/{name}")
        assert message in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_legal_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(str(path)).config
    (tmp_path / "resolved.yaml").write_text(config_to_yaml(config))
    again = load_config(str(tmp_path / "resolved.yaml"))
    assert again.config == config
    assert all(place.layer == "file" for place in again.sources.values())


def test_awkward_texts_survive_a_round_trip(tmp_path: Path) -> None:
    for name in ("yes", "6e-4", "null", "012", "1:30", "<<", "- a", "a: b", "# a", " a ", "ü", "'", "true"):
        path = write_config(tmp_path / "a.yaml", tracking__experiment="x")
        loaded = read_config(path, [f"tracking.experiment='{name.replace(chr(39), chr(39) * 2)}'"])
        assert loaded.config.tracking.experiment == name
        (tmp_path / "b.yaml").write_text(config_to_yaml(loaded.config))
        assert read_config(str(tmp_path / "b.yaml")).config == loaded.config


def test_an_error_about_a_key_gets_its_line_and_others_stay_as_they_are(tmp_path: Path) -> None:
    """A message is never taken apart: a text with a colon in it is no key."""
    path = write_config(tmp_path / "a.yaml")
    loaded = load_config(path)
    with pytest.raises(ConfigError, match=rf"^{path}:\d+: optimizer\.lr: too: large$"), loaded.at_its_line():
        raise UserError("too: large", "optimizer.lr")
    for error in (UserError("a disk: is full"), UserError("b: c", "--data"), IntegrityError("d", "run.dir")):
        with pytest.raises(type(error)) as caught, loaded.at_its_line():
            raise error
        assert caught.value is error
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "run.dir: d"


def test_small_has_every_required_key_and_every_key_has_a_docstring() -> None:
    required = {(path[0], path[-1]) for path, field in leaf_keys(GptConfig) if field.is_required()}
    assert required == {
        (section, key) for section, keys in SMALL.items() for key in keys if key != "micro_size"
    }
    assert all(field.description for _, field in leaf_keys(GptConfig))
