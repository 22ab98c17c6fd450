"""What the benchmarks share: taking turns, medians, targets, and result files that say where they come from.

Contenders of one comparison are measured in the same minutes: a round gives each of them a turn, and a ratio
is the median of the rounds' ratios. So a machine that slows down for a while slows all of them.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent
PACKAGES = ("torch", "megatron-core", "numpy", "webdataset", "sentencepiece", "transformers")


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        """As a Markdown table, readable as it stands."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        cells = [
            " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        ]
        return "\n".join(f"| {line} |" for line in cells)


@dataclass(frozen=True)
class Target:
    """A number and the bound that it should keep; missing it is reported, and is no failure."""

    what: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the number keeps its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> tuple[str, ...]:
        """What, value, bound, verdict."""
        sign = ">=" if self.at_least else "<="
        return self.what, f"{self.value:.3g}", f"{sign} {self.bound:.3g}", "met" if self.is_met else "MISSED"


@dataclass(frozen=True)
class Report:
    """What one benchmark found."""

    name: str
    question: str
    tables: Sequence[Table]
    targets: Sequence[Target] = field(default_factory=tuple)

    def markdown(self, seconds: float) -> str:
        """The whole result file."""
        targets = Table(("target", "measured", "bound", "verdict"), [target.row() for target in self.targets])
        parts = [f"# {self.name}", self.question, *(table.markdown() for table in self.tables)]
        parts += [targets.markdown()] if self.targets else []
        return "\n\n".join([*parts, origin(seconds)]) + "\n"


def origin(seconds: float) -> str:
    """Where numbers come from: date, commit, hardware, versions, and how busy the machine was."""
    load = os.getloadavg()[0]
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {memory_gib():.0f} GiB",
        "software": ", ".join([f"Python {platform.python_version()}", *map(versioned, PACKAGES)]),
        "load average of the minute at the end": f"{load:.1f}",
        "took": f"{seconds:.0f} s",
    }
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def versioned(package: str) -> str:
    """Package and version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def commit() -> str:
    """The commit, and whether files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def cpu_name() -> str:
    """The processor's name, which a virtual machine may hide, its family, and how wide it computes."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.machine()
    widest = next((name for name in ("avx512f", "avx2") if name in facts.get("flags", "").split()), "no avx2")
    return (
        f"{facts['model name']} ({facts.get('vendor_id')}, family {facts.get('cpu family')}, model "
        f"{facts.get('model')}, {widest})"
    )


def memory_gib() -> float:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each contender once a round, in an order that turns; the numbers they return, by name."""
    names = list(contenders)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(contenders[name]())
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


def spread(numbers: Sequence[float], form: str) -> str:
    """Median, and the range of the middle half where there are enough numbers."""
    ordered = sorted(numbers)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{median(ordered):{form}} ({low:{form}} to {high:{form}})"


def timed(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes."""
    began = clock()
    act()
    return clock() - began


def main(measure: Callable[[bool], Report], doc: str | None) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a few rounds to see that it works; no result file"
    )
    arguments = parser.parse_args()
    began = time.perf_counter()
    report = measure(arguments.quick)
    text = report.markdown(time.perf_counter() - began)
    print(text, flush=True)
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-{report.name}.md"
        path.write_text(text)
        print(f"written to {os.path.relpath(path)}", file=sys.stderr)
