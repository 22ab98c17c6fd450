"""The built wheel, installed beside its dependencies and used outside the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from config_files import REPOSITORY

PACKAGES = ("data_tools", "pretrain", "evals", "slurm")
TOP = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile")
BUILT = shutil.ignore_patterns("__pycache__", "*.pyc")
LIMIT = 600
BUILD_SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    wheel: Path
    python: Path
    work: Path

    def run(self, *command: str, exit_code: int = 0) -> str:
        """What a program of the environment prints, on either stream."""
        done = subprocess.run(
            [str(self.python.with_name(command[0])), *command[1:]],
            cwd=self.work,
            env=outside(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


def outside() -> dict[str, str]:
    """The environment without PYTHONPATH, from which pip would take the repository as installed already."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def copy_of_the_sources(folder: Path) -> Path:
    """A build leaves folders beside what it builds, which the next one would take in."""
    folder.mkdir()
    for name in TOP:
        shutil.copy(REPOSITORY / name, folder)
    for name in (*PACKAGES, "configs"):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=BUILT)
    return folder


def build_wheel(source: Path, output: Path) -> Path:
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", "wheel", str(source), *options, "--wheel-dir", str(output)]
    subprocess.run(command, check=True, env=outside(), capture_output=True, timeout=LIMIT)
    [wheel] = output.glob("*.whl")
    return wheel


def files_of(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(copy_of_the_sources(folder / "source"), folder / "built")
    shutil.rmtree(folder / "source")
    environment = folder / "environment"
    venv.EnvBuilder(symlinks=True).create(environment)
    python = environment / "bin" / "python"
    options = ("--no-deps", "--no-index", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(command, check=True, env=outside(), capture_output=True, timeout=LIMIT)
    # The dependencies as they are here, without the repository: a .pth file of those folders is not read.
    [site] = (environment / "lib").glob("python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in here))
    (folder / "work").mkdir()
    return Installed(wheel, python, folder / "work")


@pytest.mark.slow
def test_every_file_of_the_packages_and_every_preset_is_in_the_wheel(installed: Installed) -> None:
    """Templates, programs that are copied or run by their path, type markers: whatever is beside the code."""
    there = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    presets = {
        f"pretrain/{path.relative_to(REPOSITORY).as_posix()}"
        for path in (REPOSITORY / "configs").rglob("*")
        if path.is_file()
    }
    assert {"slurm/templates/train.sbatch.j2", "pretrain/py.typed"} <= there
    assert files_of(installed.wheel) == there | presets


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_is_the_same(installed: Installed, tmp_path: Path) -> None:
    source = copy_of_the_sources(tmp_path / "source")
    command = [sys.executable, "-c", BUILD_SDIST, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, env=outside(), capture_output=True, timeout=LIMIT)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert not [member.name for member in tar if member.issym()]
        assert any(member.name.endswith("/configs/gpt/tiny.yaml") for member in tar)
    assert files_of(build_wheel(archive, tmp_path / "built")) == files_of(installed.wheel)


@pytest.mark.slow
def test_nothing_is_imported_from_the_repository(installed: Installed) -> None:
    names = ", ".join(PACKAGES)
    program = f"import {names}; print(*[package.__path__[0] for package in ({names})], sep='\\n')"
    paths = installed.run("python", "-c", program).splitlines()
    assert len(paths) == len(PACKAGES)
    assert all(str(installed.python.parents[1]) in path for path in paths)


@pytest.mark.slow
def test_a_preset_is_listed_copied_checked_and_trained(installed: Installed) -> None:
    assert re.search(
        r"^gpt/gpt3-1\.3b +gpt +1\.32B parameters", installed.run("pretrain", "configs"), re.MULTILINE
    )
    installed.run("pretrain", "configs", "copy", "gpt3-1.3b")
    check = installed.run("pretrain", "check", "gpt3-1.3b.yaml", "--no-data", "--processes", "64")
    assert "gpt3-1.3b.yaml: no problem found" in check

    (installed.work / "text.txt").write_text("The sea is wide and old.\n\n" * 400)
    installed.run("pretrain", "configs", "copy", "gpt/tiny", "mine.yaml")
    head = (installed.work / "mine.yaml").read_text().split("\n\n")[0]
    commands = re.findall(r"^#   (pretrain (?:data|train) .*[^\\])$", head, re.MULTILINE)
    assert len(commands) == 3 and commands[-1] == "pretrain train mine.yaml"
    for command in commands[:-1]:
        installed.run(*command.split())
    assert "this would run" in installed.run(
        "pretrain", "train", "mine.yaml", "--processes", "2", "--dry-run"
    )
    installed.run(*commands[-1].split())
    assert (installed.work / "runs" / "tiny" / "checkpoints" / "latest").is_file()


@pytest.mark.slow
def test_a_job_is_rendered_and_the_sandbox_is_a_command(installed: Installed) -> None:
    installed.run("pretrain", "configs", "copy", "cluster/generic", "cluster.yaml")
    installed.run("pretrain", "configs", "copy", "data/build", "build.yaml")
    (installed.work / "corpus").mkdir()
    (installed.work / "corpus" / "a.txt").write_text("The sea is wide.\n")
    installed.run("pretrain", "data", "tokenizer", "--model-type", "byte", "--output", "data/tokenizer")
    script = installed.run("pretrain", "submit", "build.yaml", "--cluster", "cluster.yaml", "--dry-run")
    assert "#SBATCH --partition=gpu" in script
    assert "usage" in installed.run("python", "-m", "slurm.sandbox", "--help").lower()


@pytest.mark.slow
def test_an_unknown_preset_is_one_message(installed: Installed) -> None:
    said = installed.run("pretrain", "configs", "copy", "gpt3-1.3", exit_code=2)
    assert said.startswith("pretrain: error: gpt3-1.3: no such preset (did you mean 'gpt3-1.3b'?)")


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


def normal(requirement: str) -> str:
    """The name in a requirement, as packages compare them."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_every_library_that_the_code_imports_is_declared() -> None:
    """In an environment with all of them, one that only others declare would go unnoticed."""
    files = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    found = set().union(*map(imported, files)) - {*sys.stdlib_module_names, *PACKAGES, "_typeshed"}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for name, each in project["optional-dependencies"].items() if name not in {"dev", "bench"}]
    declared = {normal(requirement) for each in (project["dependencies"], *extras) for requirement in each}
    packages = packages_distributions()
    missing = {name for name in found if declared.isdisjoint(map(normal, packages.get(name, [name])))}
    assert missing == set()
