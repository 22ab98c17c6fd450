"""What every section of a config is built from."""

import os
import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pretrain.config.sections.resume import Resume, may_change, must_agree

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NO_NAME = re.compile(r"[\x00\ud800-\udc7f\udd00-\udfff]")
"""What stands in no name of a file; the other surrogates are bytes that are no UTF-8 (PEP 383)."""
VARIABLE = re.compile(r"\$[A-Za-z_{(]")
"""What a shell would expand."""
LARGEST_COUNT = 2**31 - 1
"""No count in a config exceeds this; it keeps arithmetic on them far from 64 bits."""


def _plain_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if CONTROL.search(text):
        raise ValueError("text holds a control character")
    return text


def _plain_path(text: str) -> str:
    """A path is taken as it stands: what a shell would have expanded is refused, not used as a name."""
    if not text.strip():
        raise ValueError("is empty")
    if NO_NAME.search(text):
        raise ValueError("text holds a control character that no path can")
    if text.startswith("~") or (VARIABLE.search(text) and not _is_there(text)):
        raise ValueError(
            "'~' and '$' are not expanded in a config; write the path out (a folder with a '$' in its name "
            "must be there already)"
        )
    return text


def _is_there(path: str) -> bool:
    """Whether there is something under the path, as far as names with a $ reach."""
    upto = path.find("/", path.rfind("$"))
    return os.path.lexists(path if upto < 0 else path[:upto])


def as_tuple(value: Any) -> Any:
    """A YAML list as a tuple; anything else that is no list is refused in words of its own."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, tuple):
        raise ValueError('must be a list of texts such as ["..."]')
    return value


MOST_LAYERS = 2_000
"""Each layer is built, planned and looked for by name: a model of more would never begin."""
Texts = BeforeValidator(as_tuple)
"""In `Annotated` with a tuple: it is written as a list."""
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
Width = Annotated[int, Field(gt=0, le=2**22)]
"""Of a layer: a matrix of twice this width has fewer bytes than a 64-bit integer can count."""
MicroSize = Annotated[
    int,
    Field(gt=0, le=1_000_000),
    may_change("the loss is weighted by tokens, however a batch is cut"),
]
"""Samples of one forward pass, which are listed one by one."""
GlobalSize = Annotated[
    Count, must_agree("step t covers samples t*G to (t+1)*G: samples would be lost or repeated")
]
SequenceLength = Annotated[
    Count, must_agree("samples are cut at this length: the order of the data would change")
]
TokenCount = Annotated[int, Field(gt=0, le=2**53)]
"""Tokens of a whole run: whole numbers that a float holds exactly."""
PathText = Annotated[str, AfterValidator(_plain_path)]
Name = Annotated[str, AfterValidator(_plain_text)]


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    RESUME: ClassVar[Resume | None] = None
    """What a resume may do to keys that say nothing of it themselves."""
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
