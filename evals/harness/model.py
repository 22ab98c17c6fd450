"""Our model behind the harness's LM interface; import it only where lm_eval is installed."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from evals.harness.loglikelihood import Continuation, score_continuations
from evals.harness.sampling import Generation, parse_generation
from pretrain.distributed.gather import gather_texts
from pretrain.errors import HealthError, UserError
from pretrain.gpt.generate import continue_texts
from pretrain.megatron.pipeline import PipelineModel
from pretrain.sampling import SEEDS


class CheckpointLM(TemplateLM):  # type: ignore[misc]
    """Every rank gets the same requests, and all compute together; to the harness they are one model.

    A context begins as a document does: after the end of another, unless the model was trained with attention
    reset there, or else with what its tokenizer puts before a text. `loglikelihood_rolling` puts one token
    before the text, and does not score it.

    Args:
        model: a GPT, on any parallel dims; `generate_until` supports only tensor and pipeline parallelism.
        tokenizer: the one that it was trained with.

    Attributes:
        cut: number of contexts that were truncated on the left, since they are longer than the model's
            sequence.
    """

    def __init__(self, model: PipelineModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        config = model.config
        self._model, self._tokenizer = model, tokenizer
        alone = config.resets_at_document_end
        self._prefix = list(tokenizer.begin_ids) or ([] if alone else [tokenizer.eod_id])
        self.max_length = config.batch.sequence_length
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eod_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        return [self.eot_token_id, *self._tokenizer.begin_ids][-1]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, preceded by the end of a document unless told otherwise."""
        prefix = [] if add_special_tokens is False else self._prefix
        return [*prefix, *self._tokenizer.encode(string)]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of texts after contexts, and whether greedy decoding would produce them."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of the second ids after the first, and whether each is the most likely token.

        Raises:
            UserError: nothing to score, or more than the model's sequence.
            HealthError: a log-likelihood is not finite.
        """
        asked = [self._continuation(*request) for request in requests]
        with self._progress("scoring", len(asked)) as advance:
            found = score_continuations(self._model, asked, advance)
        for likelihood in found:
            if not math.isfinite(likelihood.nll):
                raise HealthError("the model's logits are not finite: its weights are not fit for use")
        return [(-likelihood.nll, likelihood.greedy) for likelihood in found]

    def _continuation(self, texts: Any, context: list[int], continuation: list[int]) -> Continuation:
        if not context or not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"a task asks for the likelihood of {len(continuation):,} tokens after {len(context):,} "
                f"({str(texts)[:80]}): at least 1 after at least 1 is possible, "
                f"and at most {self.max_length:,}"
            )
        ids = (*context, *continuation)
        self.cut += len(ids) > self.max_length + 1
        return Continuation(ids[-(self.max_length + 1) :], len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, each token once, in windows of the model's sequence length.

        All windows but the last are disjoint; the last reaches back as far as the sequence length allows.
        """
        windows: list[tuple[int, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            windows += [(number, *make_disjoint_window(pair)) for pair in rolling]
        totals = [0.0] * len(requests)
        for window, (value, _) in zip(windows, self._loglikelihood_tokens(windows), strict=True):
            totals[window[0]] += value
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that the model generates after each context, up to the first of the stop strings.

        Replicas take turns at batches; a context longer than what the sequence leaves for new tokens is
        truncated on the left, as in the harness. Raises UserError where nothing is left.
        """
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        mine: dict[int, str] = {}
        dims, rows = self._model.layout, self._model.config.batch.micro_size
        with self._progress("generating", len(requests)) as advance:
            for kind, numbers in kinds.items():
                batches = [numbers[first : first + rows] for first in range(0, len(numbers), rows)]
                for batch in batches[dims.data_rank :: dims.data_size]:
                    contexts = [requests[number].args[0] for number in batch]
                    texts = self._generate(contexts, parse_generation(json.loads(kind)), batch[0])
                    mine |= zip(batch, texts, strict=True)
                    advance(len(batch) * dims.data_size)
        parts = gather_texts(dims.world, json.dumps(mine))
        everyone: dict[str, str] = {key: text for part in parts for key, text in json.loads(part).items()}
        return [everyone[str(number)] for number in range(len(requests))]

    def _generate(self, contexts: Sequence[str], how: Generation, first: int) -> list[str]:
        longest = self.max_length - how.max_tokens
        if longest < 1:
            raise UserError(
                f"a task generates {how.max_tokens:,} tokens, and the model's sequence of "
                f"{self.max_length:,} leaves no room for a context: set max_gen_toks in generation_kwargs"
            )
        prompts = [self.tok_encode(context) or [self.eot_token_id] for context in contexts]
        self.cut += sum(len(prompt) > longest for prompt in prompts)
        drawn = continue_texts(
            self._model,
            [prompt[-longest:] for prompt in prompts],
            self.eot_token_id,
            how.max_tokens,
            replace(how.sampling, seed=(how.sampling.seed + first) % SEEDS),
            enough=lambda ids: how.ends(self._tokenizer.decode(ids)),
        )
        return [how.cut(self._tokenizer.decode(ids)) for ids in drawn]

    @contextmanager
    def _progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        if not self._model.layout.world.is_first:
            yield lambda _: None
            return
        with Progress(title, total, "requests") as progress:
            yield progress.advance
