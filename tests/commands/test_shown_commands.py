"""What README, docs and the heads of configs show works as written: each block in a folder of its own.

Data commands run, on small stand-ins for what the reader brings. A training is checked, its data opened; a
job is rendered; a run that is scored or drawn from is one that the block has trained, where it trains any.
"""

import json
import random
import re
import shlex
import shutil
from dataclasses import dataclass, field
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_runs import bert_run
from chat_runs import gpt_run
from config_files import REPOSITORY
from foreign_tokenizers import make, write_pair
from image_shards import build_image_shards, draw
from ranks import run_pretrain
from shown_commands import CONFIGS, PAGES, TREE, blocks, commands, parse
from text_shards import build_shards

from data_tools.tokenizer import byte_tokenizer
from pretrain.config.load import read_config
from pretrain.config.sections import Config

BLOCKS = [
    pytest.param(found, id=f"{page.relative_to(REPOSITORY)}:{number}")
    for page in (*PAGES, *CONFIGS)
    for number, block in enumerate(blocks(page))
    if (found := list(commands(iter(block.splitlines()))))
]
OF_A_RUN = {"eval", "generate", "export", "compare", "register"}
WORDS = [
    "sea",
    "is",
    "wide",
    "and",
    "old",
    "ship",
    "goes",
    "slow",
    "over",
    "grey",
    "water",
    "to",
    "red",
    "land",
]
PLACEHOLDERS = {"CONFIG", "RUN", "my.yaml"}


def prose(seed: int, paragraphs: int) -> str:
    """Paragraphs of six sentences, drawn."""
    draws = random.Random(seed)
    said = [" ".join(draws.choices(WORDS, k=9)).capitalize() + "." for _ in range(6 * paragraphs)]
    return "\n\n".join(" ".join(said[at : at + 6]) for at in range(0, len(said), 6)) + "\n"


def bring(folder: Path) -> None:
    """What a reader has: the repository, a config and a cluster of their own."""
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    shutil.copy(REPOSITORY / "README.md", folder)
    tiny = (REPOSITORY / "configs/gpt/tiny.yaml").read_text()
    (folder / "configs/my.yaml").write_text(tiny.replace("global_size: 8", "global_size: 1024"))
    shutil.copy(REPOSITORY / "configs/cluster/generic.yaml", folder / "configs/my-cluster.yaml")
    (folder / "image.sqsh").touch()


def give_examples(path: Path) -> None:
    """Labelled examples, as their ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        rows = [{"prompt": f"{word}?", "response": word} for word in WORDS]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".tsv":
        lines = [f"the {word} is\t{number % 2}" for number, word in enumerate(WORDS)]
        path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    else:
        path.write_text("Ada B-PER\nlives O\nin O\nLondon B-LOC\n\n" * 8)


def give_input(path: Path, *, images: bool) -> None:
    """Pictures in a folder per class, texts in a folder, or a text, where there is nothing yet."""
    path = path.parent if "*" in path.name else path
    if path.exists():
        return
    if images:
        draw(path, 20, classes=10)
    elif path.suffix == ".bin":
        write_pair(path.with_suffix(""), [[116, 104, 101, 256]] * 400)
    elif path.suffix:
        path.write_text(prose(0, 400))
    else:
        path.mkdir(parents=True)
        for number in range(40):
            (path / f"{number}.txt").write_text(prose(number, 12))


@dataclass
class Scene:
    """A block's commands, one after another, in the present folder."""

    makes: frozenset[str]
    """Which of `data tokenizer`, `data build` and `data images` are in it; else what they make is given."""
    trained: set[str] = field(default_factory=set)
    """Folders of the runs that it trains."""

    def run(self, words: list[str]) -> None:
        """One command, or what stands for it here; fails as the command does."""
        arguments = words[words.index("pretrain") + 1 :]
        name, positional, options = parse(arguments)
        if PLACEHOLDERS.intersection(arguments) or "://" in " ".join(arguments):
            return
        if arguments[0] == "data":
            self._data(name, arguments)
        elif arguments[0] == "configs":
            call(arguments)
        elif name == "submit":
            self._submit(positional, options)
        elif name == "plan":
            call([word for word in arguments if word != "--search"])  # a minute
        elif name in {"train", "check", "parity", "verify-resume"}:
            self._check(positional, options)
        elif name in OF_A_RUN and self.trained:
            for run in [*positional, options.get("extractor") or "runs/none"]:
                known = self.trained | {"runs/none"}
                assert not run.startswith("runs/") or run in known, f"{run}: the block does not train it"

    def _data(self, name: str, arguments: list[str]) -> None:
        given = dict(pairwise(arguments))
        if (
            name == "embedded" and given["--corpus"] != "digits"
        ):  # megabytes, and slow to train a tokenizer on
            Path(given["--output"]).mkdir(parents=True)
            rows = [json.dumps({"text": prose(number, 5)}) + "\n" for number in range(80)]
            Path(given["--output"], "text.jsonl").write_text("".join(rows))
            return
        if "--input" in given:
            give_input(Path(given["--input"]), images=name == "images")
        if "--tokenizer" in given and "tokenizer" not in self.makes:
            if "--lossy" in arguments:
                make("wordpiece", Path(given["--tokenizer"]))
            else:
                byte_tokenizer().save(Path(given["--tokenizer"]))
        call(smaller(arguments))

    def _submit(self, positional: list[str], options: dict[str, Any]) -> None:
        """The script of a job; the image of a container is a stand-in."""
        config, *overrides = positional
        overrides = [re.sub("(container_image)=.*", r"\1=image.sqsh", word) for word in overrides]
        if options["after"]:
            give_run(options["after"])
            if not Path("data/held-out").exists():
                build_shards(Path("data/held-out"), [prose(0, 20)])
            overrides.append("evaluation.data=[data/held-out]")  # the stand-in has nothing to validate on
        elif "configs/data/" in config:
            [source] = [
                each["input"] for each in yaml.safe_load(Path(config).read_text()).values() if "input" in each
            ]
            give_input(Path(source), images="images" in config)
            byte_tokenizer().save(Path("data/tokenizer"))
        else:
            loaded = read_config(config, overrides, options["cluster"]).config
            self._give_data(loaded)
            overrides += fitting(loaded)
        after = ["--after", options["after"]] if options["after"] else []
        call(["submit", config, *overrides, "--cluster", options["cluster"], *after, "--dry-run"])

    def _check(self, positional: list[str], options: dict[str, Any]) -> None:
        """What a training finds wrong before it begins."""
        for word in positional:
            if word.startswith("model.init_from="):
                give_run(word.partition("=")[2])
        config = read_config(positional[0], positional[1:]).config
        self.trained.add(config.run.dir)
        self._give_data(config)
        many = ["--processes", str(options["processes"])] if options.get("processes") else []
        call(["check", *positional, *fitting(config), *many])

    def _give_data(self, config: Config) -> None:
        """What a config names and the block is not to build: examples, or shards."""
        train, validation = config.data.train, getattr(config.data, "validation", None) or ()
        if isinstance(train, str):
            for path in filter(None, (train, validation)):
                give_examples(Path(path))
            return
        for path in (Path(source.path) for source in (*train, *validation)):
            if not self.makes & {"build", "images"} and not path.exists():
                give_shards(path, config)


def fitting(config: Config) -> list[str]:
    """Overrides for the size of a stand-in: a thousandth of one is too little to validate on."""
    return ["data.validation_fraction=0.2"] if getattr(config.data, "validation_fraction", None) else []


def give_shards(path: Path, config: Config) -> None:
    """Shards of pictures that fit a config, or of text."""
    if config.model.kind in {"gan", "cnn"}:
        size = getattr(config.model, "image_size", 16)
        build_image_shards(path, size=size, channels=3 if size > 16 else 1, classes=10)
    else:
        build_shards(path, [prose(number, 20) for number in range(30)])


def give_run(path: str) -> None:
    """A run with random weights."""
    if Path(path).exists():
        return
    Path(path).parent.mkdir(exist_ok=True)
    if "bert" in path:
        bert_run(Path(path), [prose(0, 20)])
    else:
        gpt_run(Path(path))


def smaller(arguments: list[str]) -> list[str]:
    """A data command with patterns filled in, one worker, and a vocabulary that the stand-ins can fill."""
    filled = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--vocab-size":
            filled.append(str(min(int(word), 300)))
        elif before == "--workers":
            filled.append("1")
        elif "*" in word:
            filled += sorted(glob(word))
        else:
            filled.append(word)
    return filled


def call(arguments: list[str]) -> None:
    """The real command, in this process."""
    try:
        TREE.main(arguments, prog_name="pretrain", standalone_mode=False)
    except Exception as error:
        raise AssertionError(f"pretrain {' '.join(arguments)}: {error}") from error


@pytest.mark.parametrize("shown", BLOCKS)
def test_a_shown_block_works_as_written(
    shown: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = "\n".join(" ".join(words) for words in shown)
    scene = Scene(frozenset(re.findall(r"data (tokenizer|build|images)\b", text)))
    for words in shown:
        scene.run(words)


@pytest.mark.parametrize(
    "lines",
    [
        "pretrain data build --input corpus/*.txt --tokenizer t --output data/a",
        "pretrain submit configs/gpt/quickstart.yaml --cluster configs/cluster/generic.yaml --dry-run",
        "pretrain data build --input a.txt --tokenizer t --output b\npretrain train configs/gpt/tiny.yaml",
        "pretrain train configs/gpt/tiny.yaml\npretrain eval runs/tinny",
    ],
)
def test_a_block_that_does_not_work_would_be_noticed(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match=r"unexpected extra|not a multiple|no such|not train"):
        test_a_shown_block_works_as_written(list(commands(lines.splitlines())), tmp_path, monkeypatch)


OF_MY_RUN = {
    shlex.join(words): words[1:]
    for param in BLOCKS
    for words in param.values[0]
    if words[0] == "pretrain"
    and words[1] in {"eval", "generate", "export"}
    and words[2].startswith("runs/my-run")
    and not {"--processes", "--tasks", "--inception-weights"} & set(words)
}
"""What pages show of a GPT's run, in one process and without packages of its own."""


@pytest.mark.slow
def test_what_is_shown_of_a_run_works_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("data/tiny", "data/test-shards"):
        give_shards(Path(name), read_config("configs/gpt/tiny.yaml").config)
    train = ["train", "configs/gpt/tiny.yaml", "run.dir=runs/my-run", "batch.sequence_length=128"]
    assert len(OF_MY_RUN) >= 12
    for words in (train, *OF_MY_RUN.values()):
        arguments = [word.replace("step-00002000", "step-00000020") for word in words]
        if arguments[0] == "export":
            arguments[2] = f"exported-{len(arguments)}"
        done = run_pretrain(*arguments)
        assert done.returncode == 0, (arguments, done.stderr[-2000:])
