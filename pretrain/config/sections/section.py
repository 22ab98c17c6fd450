"""What every section of a config is built from."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LARGEST_COUNT = 2**31 - 1
"""No count in a config exceeds this; it keeps arithmetic on them far from 64 bits."""


def _plain_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _plain_path(text: str) -> str:
    """A path is taken as it stands: what a shell would have expanded is refused, not used as a name."""
    if text.startswith("~") or "$" in text:
        raise ValueError("'~' and '$' are not expanded in a config; write the path out")
    return _plain_text(text)


Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
PathText = Annotated[str, AfterValidator(_plain_path)]
Name = Annotated[str, AfterValidator(_plain_text)]


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
