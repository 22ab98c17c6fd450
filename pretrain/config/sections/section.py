"""What every section of a config is built from."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pretrain.config.sections.resume import Resume, may_change, must_agree

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
