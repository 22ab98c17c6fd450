"""Text from a recurrent model. Each token is read once, and only the state is kept."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from pretrain.config.generate_request import GenerateRequest
from pretrain.distributed.world import init_distributed
from pretrain.errors import UserError
from pretrain.rnn.model import Rnn
from pretrain.rnn.score import load_rnn
from pretrain.run.exit import print_error
from pretrain.sampling import SEEDS, Sampling, choose, show


@torch.no_grad()
def generate(model: Rnn, prompt: list[int], eod: int, max_tokens: int, sampling: Sampling) -> Iterator[int]:
    """Draw tokens until the end of the document or `max_tokens`.

    A text begins as a document does: after the end of another.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    state_1LC = model.no_state(1)
    read = [eod, *prompt]
    for _ in range(max_tokens):
        tokens_1S = torch.tensor([read], device=state_1LC.device)
        logits_1SV, state_1LC = model(tokens_1S, state_1LC)
        token = choose(logits_1SV[0, -1], sampling, generator)
        if token == eod:
            return
        read = [token]
        yield token


def generate_command(request: GenerateRequest) -> None:
    """`pretrain generate`: print each prompt and its continuation; prompt i is drawn with seed + i.

    Raises:
        UserError, IntegrityError: no good checkpoint, a prompt that is not Unicode, or a seed that is too
            large.
    """
    prompts, sampling = request.texts(), request.sampling()
    if not 0 <= sampling.seed <= SEEDS - len(prompts):
        raise UserError(f"--seed {sampling.seed}: at least 0 and at most {SEEDS - len(prompts)}")
    with init_distributed() as world:
        if world.size > 1:
            raise UserError(f"an rnn generates in one process, not as one of {world.size} ranks")
        saved = load_rnn(request.checkpoint, world.device, print_error)
        texts = []
        for number, prompt in enumerate(prompts):
            try:
                ids = [*saved.tokenizer.begin_ids, *saved.tokenizer.encode(prompt)]
            except UserError as error:
                raise UserError(f"--prompt {prompt!r}: {error}") from None
            own = replace(sampling, seed=sampling.seed + number)
            drawn = generate(saved.model, ids, saved.tokenizer.eod_id, request.tokens, own)
            texts.append(saved.tokenizer.decode(list(drawn)))
    show(prompts, texts)
