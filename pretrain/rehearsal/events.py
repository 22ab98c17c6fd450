"""What a GPU would have been made to wait for, and where in the code."""

import enum
import traceback
from collections import Counter
from dataclasses import dataclass, field

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

    def note(self, what: What, detail: str) -> None:
        self.counts[Event(what, detail, _place())] += 1

    def clear(self) -> None:
        self.counts.clear()

    def of(self, what: What) -> Counter[Event]:
        return Counter({event: count for event, count in self.counts.items() if event.what is what})


def _place() -> str:
    frames = [
        frame
        for frame in traceback.extract_stack()
        if any(part in frame.filename for part in OURS) and NOT_OURS not in frame.filename
    ]
    return " < ".join(
        f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in reversed(frames[-SHOWN:])
    )
