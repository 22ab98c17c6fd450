"""What a container sees: every path that a job's files name, or a refusal."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import small_config, write_config

from pretrain.config.load import read_config
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Section, SlurmConfig
from pretrain.kinds import kind_named
from slurm.mounts import Mounts, NamedPath, container_mounts, named_paths, training_mounts
from slurm.submission import new_submission
from slurm.submit import submit_command

IMAGE = {"slurm__container": "apptainer", "slurm__container_image": "docker://x"}
PYXIS = SlurmConfig(container="pyxis", container_image="x", container_mounts=("/l/data:/data", "/l/own"))


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders on other disks than the project's, which is the working directory."""
    for name in ("project/inside", "a/train", "a/valid", "b/cache", "b/tokenizer", "c/real", "d", "runs"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def seen(texts: tuple[str, ...], disks: Path) -> list[str]:
    """What is mounted, relative to the disks, each under its own path."""
    for text in texts:
        source, _, target = text.partition(":")
        assert source == target
    return [str(Path(text.partition(":")[0]).relative_to(disks)) for text in texts]


def test_a_training_sees_what_its_config_names(disks: Path) -> None:
    (disks / "b" / "linked").symlink_to(disks / "c" / "real")
    (disks / "a" / "train" / "00.tar").symlink_to(disks / "c" / "pieces" / "00.tar")
    (disks / "c" / "pieces").mkdir()
    (disks / "c" / "pieces" / "00.tar").touch()
    config = small_config(
        run__dir=str(disks / "runs" / "mine"),
        data={
            "train": ({"path": str(disks / "a/train")}, {"path": "inside"}, {"path": "s3://bucket/shards"}),
            "validation": ({"path": "../a/valid"}, {"path": str(disks / "b/linked")}),
            "tokenizer": str(disks / "b/tokenizer"),
            "cache_dir": str(disks / "b/cache/of/shards"),
        },
        tracking__uri=f"sqlite+pysqlite:///{disks}/d/mlflow.db",
        **IMAGE,
    )
    mounts = training_mounts(config)
    assert mounts.refused == ()
    assert seen(mounts.texts, disks) == [
        "project",
        "runs/mine",
        "d",
        *("a/train", "c/pieces", "b/cache", "a/valid", "b/linked", "c/real", "b/tokenizer"),
    ]


def test_without_a_container_nothing_is_mounted() -> None:
    assert training_mounts(small_config()).texts == ()


def test_what_the_config_mounts_itself_is_not_mounted_again(tmp_path: Path) -> None:
    named = [NamedPath("a", Path("/data/shards")), NamedPath("b", Path("/l/own/x"), is_made=True)]
    mounts = container_mounts(PYXIS, [("", tmp_path)], named)
    assert mounts.texts == ("/l/data:/data", "/l/own:/l/own", f"{tmp_path}:{tmp_path}")
    assert mounts.refused == ()


REFUSED = [("pyxis", name) for name in ("a,b", "a:b", 'a"b', "a$b", "a`b")]
REFUSED += [("apptainer", name) for name in ("a,b", "a:b", "a^b", "a ")]


@pytest.mark.parametrize(("container", "name"), REFUSED)
def test_what_no_mount_can_say_is_refused(tmp_path: Path, container: str, name: str) -> None:
    (tmp_path / name).mkdir()
    slurm = PYXIS.model_copy(update={"container": container})
    [(key, text)] = container_mounts(slurm, [], [NamedPath("data.train", tmp_path / name)]).refused
    assert key == "data.train" and text.startswith(f"{container} cannot mount") and name in text


@pytest.mark.parametrize(("container", "name"), [("pyxis", "a b'^#%[]\\"), ("apptainer", "a b'\"$`#%[]")])
def test_any_other_name_is_mounted(tmp_path: Path, container: str, name: str) -> None:
    (tmp_path / name).mkdir()
    slurm = PYXIS.model_copy(update={"container": container, "container_mounts": ()})
    mounts = container_mounts(slurm, [], [NamedPath("data.train", tmp_path / name)])
    assert mounts == Mounts((f"{tmp_path}/{name}:{tmp_path}/{name}",), ())


def test_a_database_is_mounted_where_its_uri_means(tmp_path: Path) -> None:
    (tmp_path / "a?b%41").mkdir()
    config = read_config(write_config(tmp_path / "config.yaml", tracking__uri="x")).config
    uri = f"sqlite:///{tmp_path}/a%3Fb%2541/mlflow.db?timeout=5"
    tracking = config.tracking.model_copy(update={"uri": uri})
    found = named_paths(config.model_copy(update={"tracking": tracking}))
    assert [each.path for each in found if each.key == "tracking.uri"] == [tmp_path / "a?b%41"]


def test_what_is_made_on_no_disk_that_is_here_is_refused() -> None:
    cache = NamedPath("data.cache_dir", Path("/no-such-disk/cache"), is_made=True)
    assert [key for key, _ in container_mounts(PYXIS, [], [cache]).refused] == ["data.cache_dir"]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("gpt", "model.init_from data.cache_dir data.tokenizer"),
        ("bert", "model.init_from data.cache_dir data.tokenizer"),
        ("gpt-chat", "model.init_from data.train data.validation data.chat_template"),
        ("bert-classifier", "model.init_from data.train data.validation"),
        ("bert-tagger", "model.init_from data.train data.validation"),
        ("rnn", "data.cache_dir data.tokenizer"),
        ("cnn", "data.cache_dir"),
        ("gan", "data.cache_dir"),
    ],
)
def test_each_kind_of_config(kind: str, keys: str) -> None:
    """Every key of a path, from a config in which each holds its own name (the sources of shards aside)."""
    config = _filled(kind_named(kind).config)
    found = {each.key: each.path.name for each in named_paths(config)}
    assert set(found) == set(f"run.dir {keys}".split())
    assert all(name == key.rpartition(".")[2] for key, name in found.items())


def _filled(section: type[Section]) -> Section:
    """A section whose texts are their keys' names."""
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            values[name] = _filled(inner)
        else:
            values[name] = name
    return section.model_construct(**values)


def script_of(capsys: pytest.CaptureFixture[str], *arguments: str, after: str | None = None) -> list[str]:
    """What a script in which nothing is wrong mounts."""
    submit_command(arguments[0], arguments[1:], None, after, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    return list(dict.fromkeys(line.split(":")[-1] for line in lines if line.startswith("  --bind ")))


def test_a_build_sees_its_inputs_and_its_output(disks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data_tools.tokenizer import byte_tokenizer

    byte_tokenizer().save(disks / "b/bytes")
    (disks / "a/train/x.txt").write_text("text")
    (disks / "a/valid/y.txt").write_text("text")
    build = {
        "input": [str(disks / "a/train/*.txt"), str(disks / "a/valid/y.txt")],
        "tokenizer": str(disks / "b/bytes"),
        "output": str(disks / "c/shards"),
    }
    slurm = {"container": "apptainer", "container_image": "docker://x"}
    Path("build.yaml").write_text(yaml.safe_dump({"build": build, "slurm": slurm}))
    mounted = script_of(capsys, "build.yaml")
    assert mounted == [str(disks / name) for name in ("project", "c", "a/train", "a/valid/y.txt", "b/bytes")]
    assert not (disks / "c/shards").exists()


def test_an_evaluation_sees_what_the_run_and_the_suite_name(
    disks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pretrain.config.load import load_config

    run = disks / "runs/mine"
    config = write_config(
        disks / "c/config.yaml",
        run__dir=str(run),
        data={"train": str(disks / "a/train"), "validation": str(disks / "a/valid")},
    )
    submission = new_submission(run)
    submission.config.write_text(config_to_yaml(load_config(config).config))
    checkpoint = run / "checkpoints/step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    suite = disks / "c/suite.yaml"
    tasks = [{"task": "perplexity", "name": "mine"}, {"task": "perplexity", "data": [str(disks / "c/real")]}]
    suite.write_text(yaml.safe_dump({"tasks": tasks}))
    slurm = {"container": "apptainer", "container_image": "docker://x"}
    Path("job.yaml").write_text(yaml.safe_dump({"evaluation": {"suite": str(suite)}, "slurm": slurm}))
    mounted = script_of(capsys, "job.yaml", after=str(run))
    names = ("project", "runs/mine", "c/suite.yaml", "a/train", "a/valid", "c/real")
    assert mounted == [str(disks / name) for name in names]
