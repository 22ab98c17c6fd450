"""The label column of a parquet file: names, or numbers, for which a `ClassLabel` gives the names.

Hugging Face's `datasets` writes a `ClassLabel` (number to name) into the metadata of the schema, and -1 where
an image has no label.
"""

import json
import math
from typing import Any

from data_tools.bounded import parse_json
from data_tools.errors import UserError
from data_tools.parquet import check_once

NO_CLASS = "-1"


def check_labels(schema: Any, column: str, url: str) -> None:
    """Raise UserError for a label column that is neither numbers nor text, or occurs twice."""
    from pyarrow import types

    check_once(schema.names, column, url)
    kind = schema.field(column).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    fit = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, types.is_string)
    if not any(test(value) for test in (*fit, types.is_large_string, types.is_string_view)):
        raise UserError(
            f"{url}: column {column!r} is of type {kind}, neither numbers nor text; name another with "
            "--label-key, or give --labels none"
        )


def declared_classes(schema: Any, column: str | None, url: str) -> tuple[str, ...]:
    """The names of the classes by number, as a `ClassLabel` lists them; empty if the column declares none.

    Raises UserError for a list that names a class twice.
    """
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None or column is None:
        return ()
    try:
        feature = parse_json(text)["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (ValueError, KeyError, TypeError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    if len(set(names)) != len(names):
        raise UserError(
            f"{url}: the ClassLabel of column {column!r} names a class twice: {json.dumps(names)}"
        )
    return tuple(names)


def class_of(value: Any, classes: tuple[str, ...]) -> str:
    """The name of the class that a value of a label column means.

    Args:
        value: text, or a whole number, which may be stored as floating point.
        classes: by number, as the file lists them; none: a number is its own name.

    Raises ValueError saying why it names no class.
    """
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        raise ValueError(f"{value} is the number of no class")
    if value < 0:
        raise ValueError(f"{value} is the number of no class")
    if classes and value >= len(classes):
        raise ValueError(f"{value} is none of the {len(classes)} classes that the file lists")
    return classes[int(value)] if classes else str(int(value))
