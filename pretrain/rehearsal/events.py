"""What a GPU would have been made to wait for, and where in the code."""

import enum
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType

OURS = ("/pretrain/", "/evals/", "/megatron/", "/deepspeed/")
NOT_OURS = "/pretrain/rehearsal/"
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
    """Innermost frames first, as file:line."""

    def __str__(self) -> str:
        return f"{self.what.value}: {self.detail} ({self.where})"


@dataclass
class Events:
    """How often each event happened since the last `clear`."""

    counts: Counter[Event] = field(default_factory=Counter)

    def note(self, what: What, detail: str) -> str:
        """Count an event here; returns the file whose code made it happen."""
        frames: list[tuple[str, int]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and len(frames) < SHOWN:
            file = frame.f_code.co_filename
            if any(part in file for part in OURS) and NOT_OURS not in file:
                frames.append((file, frame.f_lineno))
            frame = frame.f_back
        places = (f"{'/'.join(file.split('/')[-2:])}:{line}" for file, line in frames)
        self.counts[Event(what, detail, " < ".join(places))] += 1
        return frames[0][0] if frames else ""

    def clear(self) -> None:
        self.counts.clear()

    def of(self, what: What) -> Counter[Event]:
        return Counter({event: count for event, count in self.counts.items() if event.what is what})
