"""What a resume may do to a key: said beside the field, in `Annotated`, or by `RESUME` for all of a section.

A key of which nothing is said must agree, so that a new key is safe until somebody has thought about it.
Paths of data may change because the fingerprints of what they hold are compared instead
(`pretrain.training.session`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resume:
    """Whether a key may change when a run is resumed, and why."""

    may_change: bool
    reason: str
    kept: str = ""
    """Where a path may become another path: why it may not come or go."""


def may_change(reason: str, kept: str = "") -> Resume:
    return Resume(True, reason, kept)


def must_agree(reason: str) -> Resume:
    return Resume(False, reason)


SCORES = "validation losses of one run must be comparable"
SAME_RUN = may_change("that run may be moved: its id is compared")
SAME_SHARDS = may_change("shards may be moved: their fingerprint is compared")
SCORED_SHARDS = may_change("shards may be moved: their fingerprint is compared", SCORES)
SAME_FILE = may_change("a file of examples may be moved: its fingerprint is compared")
SCORED_FILE = may_change("a file of examples may be moved: its fingerprint is compared", SCORES)
PREDICTED = must_agree("decides which tokens are predicted")
OTHER_EXAMPLES = must_agree("other columns are other examples")
OTHER_CLASSES = must_agree("another column has other classes")
OTHER_CONVERSATIONS = must_agree("other keys are other conversations")
OPTIMIZER = must_agree("the optimizer's state was made with these")
SAMPLES = must_agree("samples would be lost or repeated")
LAYOUT = may_change("any layout loads a checkpoint of any other")
