"""What a fine-tuned model predicts for a file: gathered from all ranks, scored, and written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_tools.atomic import write_atomically
from pretrain.bert.finetune.data.data import LabelledData, LabelledValidation
from pretrain.bert.finetune.data.examples import NO_LABEL, LabelledExample
from pretrain.distributed.gather import gather_pairs
from pretrain.megatron.pipeline import PipelineModel

Span = tuple[int, int, str]


@dataclass(frozen=True)
class Predictions:
    """The classes that a model predicted for the examples of a file.

    Attributes:
        data: the file.
        given: for each example the number of its class, or those of its words in order; words that were cut
            off have none and count as wrong.
    """

    data: LabelledData
    given: tuple[tuple[int, ...], ...]

    def metrics(self) -> dict[str, float]:
        """Accuracy, and F1: of entities if classes are named as in B-PER, else the mean over classes."""
        right = [self._right(example) for example in self.data.examples]
        true = [number for numbers in right for number in numbers]
        said = [
            given[index] if index < len(given) else NO_LABEL
            for numbers, given in zip(right, self.given, strict=True)
            for index in range(len(numbers))
        ]
        accuracy = sum(a == b for a, b in zip(true, said, strict=True)) / len(true)
        if any(name.startswith("B-") for name in self.data.labels.names):
            return {"accuracy": accuracy, "f1": self._entity_f1(right)}
        from sklearn.metrics import f1_score

        classes = list(range(len(self.data.labels)))
        f1 = f1_score(true, said, labels=classes, average="macro", zero_division=0.0)
        return {"accuracy": accuracy, "f1": float(f1)}

    def write(self, path: Path) -> None:
        """Write one object a line: the example's line in its file, label and prediction."""
        names = self.data.labels.names
        lines = []
        for example, given in zip(self.data.examples, self.given, strict=True):
            labels = [names[number] for number in self._right(example)]
            said = [names[number] for number in given]
            row = (
                {"line": example.line, "labels": labels, "predictions": said}
                if self.data.tagged
                else {"line": example.line, "label": labels[0], "prediction": said[0]}
            )
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        write_atomically(path, "".join(lines))

    def _right(self, example: LabelledExample) -> list[int]:
        return list(example.words) if self.data.tagged else [example.label]

    def _entity_f1(self, right: Sequence[Sequence[int]]) -> float:
        """Harmonic mean of precision and recall over whole entities (Tjong Kim Sang & De Meulder 2003)."""
        names = self.data.labels.names
        correct = guessed = there = 0
        for numbers, given in zip(right, self.given, strict=True):
            true = entities([names[number] for number in numbers])
            said = entities([names[number] for number in given])
            correct += len(true & said)
            guessed, there = guessed + len(said), there + len(true)
        return 2 * correct / (guessed + there) if guessed + there else 0.0


def entities(tags: Sequence[str]) -> set[Span]:
    """(first word, word after the last, kind) of each entity in IOB tags.

    An entity begins at B-, and at an I- that does not continue one of its kind, as in conlleval.
    """
    found: set[Span] = set()
    begin, kind = 0, ""
    for index, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((begin, index, kind))
            kind = ""
        if mark in ("B", "I") and not kind:
            begin, kind = index, name
    return found


def collect(model: PipelineModel, validation: LabelledValidation) -> Predictions:
    """Predict every example; all ranks call this together and get the same."""
    layout, data = model.layout, validation.data
    width = data.width(range(len(data)))
    pairs: list[torch.Tensor] = []
    micro_size = model.config.batch.micro_size
    for batch in validation.micro_batches(layout.data_rank, layout.data_size, micro_size):
        for output in model.outputs([batch]):
            classes = output.argmax(-1).cpu()
            asked = (batch.labels != NO_LABEL).nonzero()
            row = torch.tensor(batch.sample_ids)[asked[:, 0]]
            place = row * width + (asked[:, 1] if data.tagged else 0)
            said = classes[asked[:, 0], asked[:, 1]] if data.tagged else classes[asked[:, 0]]
            if layout.tensor_rank == 0:
                pairs.append(torch.stack([place, said], dim=1))
    mine = torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)
    everyone = gather_pairs(layout.world, mine)
    given: list[list[int]] = [[] for _ in data.examples]
    for place, number in sorted(everyone.tolist()):
        given[place // width].append(number)
    return Predictions(data, tuple(tuple(numbers) for numbers in given))
