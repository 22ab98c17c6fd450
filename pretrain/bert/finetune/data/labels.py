"""Names of classes and their numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pretrain.config.schema import nearest_name
from pretrain.errors import UserError


@dataclass(frozen=True)
class Labels:
    """The classes of a task, in the order of their numbers."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str, where: str) -> int:
        """The number of a class. Raises UserError, saying `where`, if training never showed it."""
        try:
            return self.names.index(name)
        except ValueError:
            meant = nearest_name(name, self.names)
            hint = f"did you mean '{meant}'?" if meant else "it has: " + ", ".join(self.names)
            raise UserError(
                f"{where}: label {name!r:.60} does not occur in the training data ({hint})"
            ) from None


def training_labels(path: str, found: Iterable[str], given: Sequence[str] | None) -> Labels:
    """The classes of a training file.

    Args:
        found: the label of every example.
        given: the classes that the config lists; None: those that are found, sorted.

    Raises:
        UserError: fewer than two classes, a class without an example, or an example of a class that is not
            listed.
    """
    counts = Counter(found)
    if given is not None:
        for name in counts:
            if name not in given:
                raise UserError(f"{path}: label {name!r:.60} is not in data.labels: {', '.join(given)}")
        for name in given:
            if not counts[name]:
                raise UserError(f"{path}: class '{name}' of data.labels is empty: it has no example")
    if len(counts) < 2:
        raise UserError(f"{path}: every example is of the class '{next(iter(counts))}'; two classes or more")
    return Labels(tuple(given) if given is not None else tuple(sorted(counts)))
