"""Generate texts in one process, or as one of the ranks of a layout.

The argument is a list of {"checkpoint", "prompts", "max_tokens", "overrides", "cached", ...}, the rest for
`Sampling`; prints JSON.
"""

import json
import sys

from megatron.core import parallel_state

from pretrain.distributed.world import init_distributed
from pretrain.gpt.generate import generate_texts
from pretrain.sampling import Sampling


def main() -> None:
    texts = []
    with init_distributed() as world:
        for asked in json.loads(sys.argv[1]):
            checkpoint, prompts, most = (asked.pop(key) for key in ("checkpoint", "prompts", "max_tokens"))
            how = {key: asked.pop(key) for key in ("overrides", "cached") if key in asked}
            texts.append(generate_texts(checkpoint, prompts, most, Sampling(**asked), world, **how))
            parallel_state.destroy_model_parallel()
        if world.is_first:
            print(json.dumps(texts))


if __name__ == "__main__":
    main()
