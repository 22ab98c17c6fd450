"""Scripts of `pretrain submit --dry-run`: as they were read and approved, legal bash, whatever the values.

`python tests/slurm/test_scripts.py` writes the approved scripts again, for their reader to compare.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from config_files import REPOSITORY, write_config
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.load import read_config
from slurm.quote import for_comment, for_option, for_sbatch, for_shell
from slurm.render import render
from slurm.submit import training_job
from slurm.tasks import tasks_of

GOLDEN = Path(__file__).with_name("golden")
PYTHON = {"slurm__python": "/opt/pretrain/bin/python"}
CASES: dict[str, dict[str, Any]] = {
    "one-node": {**PYTHON, "slurm__gpus_per_node": 8, "slurm__cpus_per_task": 12, "slurm__time": "12:00:00"},
    "sixteen-nodes-pyxis": {
        "parallel__tensor": 4,
        "parallel__pipeline": 4,
        "slurm__nodes": 16,
        "slurm__gpus_per_node": 8,
        "slurm__partition": "h100",
        "slurm__account": "lab",
        "slurm__exclusive": True,
        "slurm__time": "2-00:00:00",
        "slurm__signal_seconds": 900,
        "slurm__container": "pyxis",
        "slurm__container_image": "/shared/images/pretrain.sqsh",
        "slurm__container_mounts": ["/shared/data"],
        "slurm__environment": ["NCCL_IB_HCA=mlx5"],
    },
    "apptainer": {
        "slurm__nodes": 2,
        "slurm__gpus_per_node": 4,
        "slurm__modules": ["apptainer/1.3"],
        "slurm__container": "apptainer",
        "slurm__container_image": "/shared/images/pretrain.sif",
        "slurm__directives": ["--mail-type=END,FAIL", "-M other"],
    },
    "chain": {
        **PYTHON,
        "slurm__nodes": 2,
        "slurm__tasks_per_node": 4,
        "slurm__requeue": False,
        "slurm__chain": 5,
        "slurm__preflight": False,
        "slurm__time": "24:00:00",
    },
    "hostile": {
        **PYTHON,
        "slurm__comment": 'a\'b $(touch x) "c" `d` # e \\',
        "slurm__partition": "p; rm -rf /",
        "slurm__exclude": "n[1-3] --nodes=99",
        "slurm__environment": ["A='; touch x; '", "B=$(touch x)", 'C="`touch x`"'],
        "slurm__modules": ["a; touch x", "$(touch x)"],
        "slurm__directives": ["--mail-user=a b$(touch x)"],
    },
}
NASTY = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


def script_of(folder: Path, **changes: Any) -> str:
    """The script of a config with a run of a fixed name, as from a fixed folder."""
    config = read_config(
        write_config(folder / "config.yaml", run__dir="/shared/runs/my run", **changes)
    ).config
    job = training_job(
        config, tasks_of(config.slurm, config.replica_ranks), Path("/shared/runs/my run/slurm/0001")
    )
    return render("train.sbatch.j2", job).replace(str(Path.cwd()), "/home/me/project")


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_the_approved_one(tmp_path: Path, name: str) -> None:
    assert script_of(tmp_path, **CASES[name]) == (GOLDEN / f"{name}.sbatch").read_text()


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_clean_bash(tmp_path: Path, name: str) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of(tmp_path, **CASES[name]))
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC2016: quoted values of users may look like what the shell would expand; that is why they are quoted.
    checked = subprocess.run([shellcheck, "--exclude=SC2016", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@given(NASTY)
def test_any_text_is_one_word_for_sbatch(text: str) -> None:
    assert as_sbatch_reads(for_sbatch(text)) == [text]


@given(NASTY)
def test_any_text_is_one_word_for_an_option(text: str) -> None:
    assert as_sbatch_reads(for_option(f"--comment={text}")) == [f"--comment={text}"]


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=4))
def test_any_text_is_one_word_for_bash(texts: list[str]) -> None:
    words = " ".join(for_shell(text) for text in texts)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == (texts or [""])


def test_a_line_that_would_end_a_directive_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        for_sbatch("a\n#SBATCH --uid=0")
    assert "\n" not in for_comment("a\nb\u2028c")


def as_sbatch_reads(line: str) -> list[str]:
    """Words of an #SBATCH line by sbatch's own rules (Slurm 22.05, src/sbatch/opt.c, `_get_argument`)."""
    words, word, quote, escaped = [], "", "", False
    for character in line + " ":
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character in "\"'":
            quote = character
        elif character == " ":
            words, word = [*words, word], ""
        else:
            assert character != "#"
            word += character
    assert not quote
    assert not escaped
    return words


def test_what_no_script_may_say_twice(tmp_path: Path) -> None:
    for text, message in (
        ("--nodes=4", "is set by slurm.nodes"),
        ("-N4", "is set by slurm.nodes"),
        ("--output=x", "is set by run.dir"),
        ("nodes=4", "must be an option of sbatch"),
    ):
        with pytest.raises(Exception, match=re.escape(message)):
            read_config(write_config(tmp_path / "config.yaml", slurm__directives=[text]))


def main() -> None:
    folder = Path("/tmp/golden")
    folder.mkdir(exist_ok=True)
    for name, changes in CASES.items():
        (GOLDEN / f"{name}.sbatch").write_text(script_of(folder, **changes))
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY / "tests"))
    main()
