"""Which rank blocks the others, from the heartbeats of all ranks: pure functions that make the text of a
hang's verdict.

Ranks of one step wait for each other. So the rank that has made the least progress is the one that the others
wait for, whatever each of them is waiting in. A rank without a sign of life is reported first.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from pretrain.distributed.ranks import some_ranks
from pretrain.health.heartbeat import Heartbeat, is_dead

_SHOWN = 4


def judge(beats: Mapping[int, Heartbeat | None], silent: Iterable[int]) -> str | None:
    """The verdict on ranks that make no progress; None if what they do may still take its time.

    Args:
        beats: heartbeat of every rank, None if there has been none.
        silent: ranks whose heartbeat has stopped, or which have none.
    """
    lost = sorted(silent)
    living = [
        heartbeat for rank, heartbeat in sorted(beats.items()) if heartbeat is not None and rank not in lost
    ]
    waiting = [heartbeat for heartbeat in living if not heartbeat.ended]
    if lost:
        return "; ".join([*_cut([_lost(rank, beats[rank]) for rank in lost]), *_others(waiting)])
    if not waiting:
        return None
    least = min(heartbeat.progress for heartbeat in waiting)
    behind = [heartbeat for heartbeat in waiting if heartbeat.progress == least]
    if not any(heartbeat.overdue for heartbeat in behind):
        return None
    if len(behind) == len(beats) > 1:
        longest = max(behind, key=lambda heartbeat: heartbeat.lasted)
        hosts = f"all {len(beats)} ranks"
        return f"{hosts} in {longest.place} for {longest.lasted:.0f} s; their stacks say where"
    ahead = [heartbeat for heartbeat in waiting if heartbeat.progress != least]
    blocking = [f"{heartbeat.name} in {heartbeat.place} for {heartbeat.lasted:.0f} s" for heartbeat in behind]
    return "; ".join([*_cut(blocking), *_others(ahead)])


def _lost(rank: int, beat: Heartbeat | None) -> str:
    if beat is None:
        return f"rank {rank} has given no sign of life at all"
    if is_dead(beat):
        return f"{beat.name} (pid {beat.pid}) is gone: killed, or crashed; last heartbeat in {beat.place}"
    when = datetime.fromtimestamp(beat.time).astimezone().isoformat(" ", "seconds")
    return (
        f"{beat.name} (pid {beat.pid}) gives no sign of life since {when}, then in {beat.place}: it is "
        "stopped, or its node is gone"
    )


def _others(beats: Sequence[Heartbeat]) -> list[str]:
    """`ranks 0-3 wait in all-reduce of gradients of step 12`, grouped by phase."""
    by_phase: dict[str, list[int]] = {}
    for heartbeat in beats:
        by_phase.setdefault(heartbeat.place, []).append(heartbeat.rank)
    return [
        f"{some_ranks(ranks)} wait{'s' if len(ranks) == 1 else ''} in {phase}"
        for phase, ranks in by_phase.items()
    ]


def _cut(parts: Sequence[str]) -> list[str]:
    more = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return [*parts[:_SHOWN], *more]
