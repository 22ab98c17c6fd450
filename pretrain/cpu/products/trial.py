"""Which method is fastest on this machine: each class of products is timed once, and the times are stored.

CPU time on one thread is compared. Wall time would include everything else that runs here: with six busy
processes on two cores the same ratio came out as 0.2 and 2.5, that of CPU times as 1.04 to 1.18. So a single
process and two processes that share the cores choose the same.

The file belongs to the user, one for each processor, build of torch and settings of the libraries:
`~/.cache/pretrain/products-*.json`, or in XDG_CACHE_HOME. If none can be stored, every start measures.
"""

import hashlib
import json
import os
import platform
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_tools.bounded import SMALL_FILE, read_bytes
from data_tools.typed import Seconds, parse
from pretrain.cpu.products.choice import CLASSES, PASSES, TORCH, TYPES, Available, Choice
from pretrain.cpu.products.method import METHODS, Method

ROWS, FEW = 256, (1, 8)
"""Rows of the products that are timed."""
WIDTHS = (256, 1024)
"""Inputs and outputs, and the other way round: the two products of a small transformer's MLP."""
ROUNDS = 4
HOPELESS, START_UP = 3.0, 0.01
"""A method that takes this many times as long as the best, plus this many seconds, gets no second turn."""
GAIN = 0.95
"""Another method is chosen if it takes less than this share of torch's own time, so that noise does not
decide."""
SETTINGS = ("MKL_", "ONEDNN_", "DNNL_", "ATEN_CPU_")
"""Prefixes of variables that configure how the libraries compute."""
FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU part")
"""The fields of /proc/cpuinfo, on x86 or Arm, that decide what a processor can run."""

Times = dict[str, dict[str, Seconds]]
"""Class of products -> method -> CPU seconds on one thread for the products that are timed."""
Methods = Mapping[str, Method]


@dataclass(frozen=True)
class Trial:
    """Times on one machine, and the machine that they are valid for."""

    machine: dict[str, str]
    times: Times
    took: Seconds
    """Wall time of all measurements."""

    def choice(self, available: Available) -> Choice:
        """The fastest of the available methods; torch's own unless another is clearly faster."""
        return Choice(tuple(self._best(each, available) for each in CLASSES))

    def _best(self, each: str, available: Available) -> str:
        kind = each.split(".")[0]
        times = {name: value for name, value in self.times[each].items() if (kind, name) in available}
        best = min(times, key=lambda name: times[name])
        return best if times[best] < GAIN * times[TORCH] else TORCH

    def shares(self) -> str:
        """Each method's share of torch's own time, in words."""
        said = []
        for kind in TYPES:
            for name in METHODS:
                shares = [
                    f"{self.times[each][name] / self.times[each][TORCH]:.2f} {each.split('.')[1]}"
                    for each in (f"{kind}.{work}" for work in PASSES)
                    if name != TORCH and name in self.times[each] and self.times[each][TORCH]
                ]
                said += [f"{kind}={name}: {', '.join(shares)}"] if shares else []
        return "; ".join(said)


def machine() -> dict[str, str]:
    """Everything that decides which method is fastest: processor, libraries and their settings."""
    found = _processor()
    name = found.get("model name") or platform.processor() or platform.machine()
    return {
        "processor": name,
        "family": f"{found.get('cpu family', '?')}, model {found.get('model', '?')}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "details": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16],
        "torch": torch.__version__,
        "settings": " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)),
    }


def _processor() -> dict[str, str]:
    """The first processor as Linux describes it; empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip() in FACTS}


def cache_file(here: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """Where the trial of a machine is stored."""
    home = environment.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "pretrain"
    name = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"products-{name}.json"


def known_trial(methods: Methods = METHODS) -> Trial:
    """The trial of this machine: the stored one, else a new one, which is stored if possible."""
    here = machine()
    with suppress(OSError, RuntimeError):  # no home, or a folder that cannot be read
        if kept := _read(cache_file(here, os.environ), here):
            return kept
    made = measure(here, methods)
    with suppress(OSError, RuntimeError):
        path = cache_file(here, os.environ)
        if first := _read(path, here):  # another process was faster; both must use the same choice
            return first
        _write(path, made)
    return made


def _read(path: Path, here: Mapping[str, str]) -> Trial | None:
    """A trial of this machine that only this user can have written; None if there is none, or it is
    damaged."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return None
        trial = parse(Trial, read_bytes(path, SMALL_FILE))
    except (OSError, ValueError):
        return None
    whole = trial.times.keys() == set(CLASSES) and all(TORCH in each for each in trial.times.values())
    known = all(each.keys() <= METHODS.keys() for each in trial.times.values())
    return trial if trial.machine == here and whole and known else None


def _write(path: Path, trial: Trial) -> None:
    """Write the file atomically, for this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(asdict(trial), indent=1) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def measure(here: dict[str, str], methods: Methods = METHODS) -> Trial:
    """Time every method that is available; takes a second of CPU time where bf16 is slow."""
    began = time.perf_counter()
    times: Times = {}
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad(), _one_thread():
        for kind, dtype in TYPES.items():
            having = {name: each for name, each in methods.items() if each.has(dtype)}
            for work in PASSES:
                acts = {name: _act(each, work, dtype, draw) for name, each in having.items()}
                times[f"{kind}.{work}"] = _race(acts)
    return Trial(here, times, time.perf_counter() - began)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _act(method: Method, work: str, dtype: torch.dtype, draw: torch.Generator) -> Callable[[], None]:
    """A function that computes products of one class, wide and narrow."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    operands = [
        (normal(rows, inputs), normal(rows, outputs), normal(outputs, inputs))
        for rows in (FEW if work == "few" else (ROWS,))
        for inputs, outputs in (WIDTHS, WIDTHS[::-1])
    ]

    def act() -> None:
        for x_MI, gradient_MO, weight_OI in operands:
            if work == "input_gradient":
                method.input_gradient(gradient_MO, weight_OI)
            elif work == "weight_gradient":
                method.weight_gradient(gradient_MO, x_MI)
            else:
                method.forward(x_MI, weight_OI, None)

    return act


def _race(acts: Mapping[str, Callable[[], None]]) -> dict[str, Seconds]:
    """The shortest time of each; they take turns, so that a disturbance affects all of them."""
    best: dict[str, Seconds] = {}
    for turn in range(1 + ROUNDS):
        leader = min(best.values(), default=0.0)
        for name, act in acts.items():
            if best.get(name, 0.0) > HOPELESS * leader + START_UP:
                continue
            began = time.thread_time()
            act()
            took = time.thread_time() - began
            best[name] = took if turn == 0 else min(best[name], took)
    return best
