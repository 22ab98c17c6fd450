"""The options of `pretrain generate`. No torch here, so that wrong options are refused at once."""

from dataclasses import dataclass, fields

from pretrain.errors import UserError
from pretrain.sampling import Sampling, checked_sampling

OF_TEXT = frozenset({"prompt", "max_tokens", "temperature", "top_k", "top_p", "seed", "greedy"})
"""Options for kinds that continue texts."""
MAX_TOKENS, SEED = 100, 1234


@dataclass(frozen=True)
class GenerateRequest:
    """The options of `pretrain generate`; None if not given."""

    checkpoint: str
    prompt: tuple[str, ...] | None = None
    max_tokens: int | None = None
    greedy: bool | None = None
    chat: bool | None = None
    processes: int | None = None
    overrides: tuple[str, ...] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    output: str | None = None
    count: int | None = None
    label: int | None = None
    raw: bool | None = None

    def refuse_all_but(self, options: frozenset[str], kind: str) -> None:
        """Raise UserError for the first given option that does nothing for this kind of model."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "checkpoint" and field.name not in options and value is not None:
                name = value[0] if field.name == "overrides" else _option(field.name)
                raise UserError(f"{name} has no effect on a checkpoint of model.kind {kind}; remove it")

    def refuse_whatever_the_kind(self) -> None:
        """Raise UserError for what is wrong whatever kind the checkpoint has; most kinds continue texts."""
        if self.output is None and self.count is None:
            self.texts()
        self.sampling()

    def texts(self) -> tuple[str, ...]:
        """The texts to continue. Raises UserError if there are none and it is not a conversation."""
        if not self.prompt and not self.chat:
            raise UserError("--prompt is missing: the text to go on from")
        return self.prompt or ()

    @property
    def tokens(self) -> int:
        return MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def sampling(self) -> Sampling:
        """How the next token is drawn. Raises UserError as `checked_sampling`."""
        return checked_sampling(bool(self.greedy), self.temperature, self.top_k, self.top_p, self.seed)


def _option(name: str) -> str:
    return "--class" if name == "label" else f"--{name.replace('_', '-')}"
