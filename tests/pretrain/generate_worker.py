"""Generate several texts in one process.

The argument is a list of {"checkpoint", "prompt", "max_tokens", ...}, the rest for `Sampling`; prints JSON.
"""

import json
import sys

from megatron.core import parallel_state

from pretrain.generate import generate_text
from pretrain.sampling import Sampling


def main() -> None:
    texts = []
    for asked in json.loads(sys.argv[1]):
        checkpoint, prompt, max_tokens = (asked.pop(key) for key in ("checkpoint", "prompt", "max_tokens"))
        texts.append(generate_text(checkpoint, prompt, max_tokens, Sampling(**asked)))
        parallel_state.destroy_model_parallel()
    print(json.dumps(texts))


if __name__ == "__main__":
    main()
