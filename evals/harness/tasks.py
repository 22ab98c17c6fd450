"""Tasks as the harness runs them, made from definitions and their examples."""

import hashlib
import json
from typing import Any

from evals.harness.definition import Definition
from evals.harness.examples import TaskExample, read_examples
from evals.harness.sampling import generation_of
from pretrain.errors import UserError

FEWSHOT_SEED = 1234
"""Seed of the draw of examples before each question; the harness's own default."""


def build_task(definition: Definition) -> Any:
    """A `ConfigurableTask` of the harness with every request built.

    Raises UserError: something is wrong with the definition or an example.
    """
    examples = read_examples(definition)
    if definition.settings.get("output_type", "generate_until") == "generate_until":
        generation_of(definition)
    try:
        task = _harness_task(definition, examples)
        _check_answers(definition, task, examples)
        task.build_all_requests()
        task.build_all_requests = _built  # its evaluation would build them again
    except UserError:
        raise
    # A wrong definition can raise errors of any type, deep inside the harness.
    except Exception as error:
        raise _unusable(str(definition.file.path), error) from error
    return task


def requests_fingerprint(task: Any) -> str:
    """A hash of every text that the model is asked about, and so of templates, examples and the few-shot
    draw."""
    asked = [[one.request_type, list(one.args)] for one in task.instances]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _built(**_: Any) -> None: ...


def _unusable(location: str, error: Exception) -> UserError:
    return UserError(f"{location}: the harness cannot use it: {type(error).__name__}: {error}")


def _harness_task(definition: Definition, examples: dict[str, list[TaskExample]]) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    found = {}
    for split, rows in examples.items():
        try:
            found[split] = datasets.Dataset.from_list([dict(row.fields) for row in rows])
        except (ValueError, TypeError) as error:  # pyarrow's errors are of these types
            paths = ", ".join(map(str, definition.data[split]))
            raise UserError(f"{paths}: a field is not of one type in all lines: {error}") from None
    data = datasets.DatasetDict(found)
    settings = {**definition.settings, "dataset_path": "json", "custom_dataset": lambda **_: data}
    try:
        task = ConfigurableTask(config=settings)
    except Exception as error:  # the constructor renders the first example
        first = examples[settings.get("test_split") or settings["validation_split"]][0]
        raise _unusable(f"{definition.file.path}: {first.location}", error) from error
    task.set_fewshot_seed(FEWSHOT_SEED)
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    return task


def _check_answers(definition: Definition, task: Any, examples: dict[str, list[TaskExample]]) -> None:
    """Refuse a correct answer that is not among the choices, which the harness would count as a wrong one."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return
    split = task.config.test_split or task.config.validation_split
    documents = task.eval_docs
    locations = [example.location for example in examples[split]]
    if len(locations) != len(documents):  # process_docs has dropped some examples
        locations = [f"{definition.file.path}: document {number}" for number in range(len(documents))]
    for location, document in zip(locations, documents, strict=True):
        choices = task.doc_to_choice(document)
        if (
            not isinstance(choices, list)
            or not choices
            or not all(isinstance(each, str) and each for each in choices)
        ):
            raise UserError(f"{location}: doc_to_choice must give a list of texts, got {choices!r}")
        answer = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
        for each in answer if isinstance(answer, list) else [answer]:
            fits = each in choices if isinstance(each, str) else 0 <= each < len(choices)
            if not fits:
                raise UserError(f"{location}: the answer {each!r} is not one of the {len(choices)} choices")


def metrics_of(definition: Definition, task: Any, found: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Metric -> value and definition, from the harness's results for one task.

    Raises UserError: a metric that the task names has no value for its output type.
    """
    documents = found["sample_len"]
    result: dict[str, tuple[float, str]] = {}
    for key, value in found.items():
        name, comma, pipeline = key.partition(",")
        if not comma or not isinstance(value, int | float):
            continue  # "N/A" where the harness has no standard error
        shown = f"{definition.name}/{name}" + ("" if pipeline == "none" else f".{pipeline}")
        result[shown] = float(value), _meaning(task, name, documents)
    wanted = [key for key in task.higher_is_better() if not any(f"{key}," in one for one in found)]
    if wanted:
        raise UserError(
            f"{definition.file.path}: metric {wanted[0]} has no value for output_type {task.OUTPUT_TYPE}"
        )
    result[f"{definition.name}/documents"] = documents, "examples scored"
    return result


def _meaning(task: Any, name: str, documents: int) -> str:
    metric = name.removesuffix("_stderr")
    if metric != name:
        return f"standard error of {metric}, as the harness has it"
    better = task.higher_is_better().get(metric)
    direction = "" if better is None else f"; {'higher' if better else 'lower'} is better"
    return f"the harness's {metric} over {documents:,} examples{direction}"
