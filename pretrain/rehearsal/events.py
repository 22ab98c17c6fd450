"""What a GPU would have been made to wait for, and where in the code."""

import enum
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType

PACKAGES = ("pretrain", "evals", "megatron", "deepspeed")
"""Whose lines are named."""
PASSED_OVER = "/pretrain/rehearsal/"
SHOWN = 3


class What(enum.Enum):
    """A kind of event."""

    SYNC = "the host waits for the GPU"
    BUS = "a copy between host and GPU that waits"
    CPU_COLLECTIVE = "a collective of a CPU tensor in a group of GPUs"


@dataclass(frozen=True)
class Event:
    """One kind of event at one place."""

    what: What
    detail: str
    where: str
    """Innermost frames first, as pretrain/file.py:line."""

    @property
    def is_deepspeeds(self) -> bool:
        """Whether DeepSpeed's own code made it happen."""
        return self.where.startswith("deepspeed/")

    def __str__(self) -> str:
        return f"{self.what.value}: {self.detail} ({self.where})"


@dataclass
class Events:
    """How often each event happened since the last `clear`."""

    counts: Counter[Event] = field(default_factory=Counter)

    def note(self, what: What, detail: str) -> Event:
        """Count an event of the code that is running."""
        frames: list[str] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and len(frames) < SHOWN:
            file = frame.f_code.co_filename
            package = next((each for each in PACKAGES if f"/{each}/" in file), None)
            if package is not None and PASSED_OVER not in file:
                frames.append(f"{file[file.rindex(f'/{package}/') + 1 :]}:{frame.f_lineno}")
            frame = frame.f_back
        event = Event(what, detail, " < ".join(frames))
        self.counts[event] += 1
        return event

    def clear(self) -> None:
        self.counts.clear()

    def of(self, what: What) -> Counter[Event]:
        return Counter({event: count for event, count in self.counts.items() if event.what is what})
