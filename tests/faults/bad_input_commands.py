"""`pretrain` commands with bad input: forks of a warm process, and what each must end with.

A command is the installed one in all but its start: `pretrain.cli.main` in a process of its own, with its own
environment, whose whole output is looked at.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from resume_runs import Server

WORDS = ("the ", "quick ", "brown ", "fox ", "jumps ", "over\n")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    """Standard output and standard error."""

    def refused(self, code: int, *parts: str) -> "Ended":
        """Assert that it ended with `code` and one message that holds all `parts`."""
        assert self.code == code, f"exit code {self.code}, not {code}:\n{self.said}"
        assert "Traceback" not in self.said, self.said
        assert len(re.findall("^pretrain: error: ", self.said, re.M)) == 1, self.said
        message = self.said.split("pretrain: error: ", 1)[1]
        for part in parts:
            assert part in message, f"no {part!r} in:\n{message}"
        return self


@dataclass
class Commands:
    """Runs commands, one at a time or several at once."""

    server: Server
    folder: Path
    _started: dict[int, Path] = field(default_factory=dict)

    def start(self, *argv: object, **environment: object) -> int:
        """Start a command; its process id."""
        log = self.folder / f"said-{len(self._started)}.log"
        answer = self.server.ask(
            argv=[str(part) for part in argv],
            environment={name: str(value) for name, value in environment.items()},
            log=str(log),
            record=None,
            mutation=None,
        )
        pid = int(answer["pid"])
        self._started[pid] = log
        return pid

    def wait(self, pid: int) -> Ended:
        """Wait for a command that was started."""
        return Ended(self.server.ask(wait=pid)["code"], self._started[pid].read_text(errors="replace"))

    def run(self, *argv: object, **environment: object) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(*argv, **environment))


def documents(count: int) -> list[str]:
    """Short texts, all different."""
    return [
        "".join(WORDS[number * place % 7 % 6] for place in range(1, 25)) + str(number)
        for number in range(count)
    ]


def small_run(folder: Path, shards: Path, **changes: Any) -> dict[str, Any]:
    """The keys of a run that takes a second; `section__key=value` changes one."""
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "steps": 3},
        "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
        "batch": {"global_size": 4, "micro_size": 2, "sequence_length": 32},
        "optimizer": {"lr": 1e-3},
        "data": {"train": str(shards)},
        "tracking": {"enabled": False},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[name] = value
    return tree


def write_run(folder: Path, shards: Path, **changes: Any) -> Path:
    """`small_run` as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(small_run(folder, shards, **changes)))
    return path
