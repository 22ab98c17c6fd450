"""`python dry_run_worker.py JSON`: dry runs of {name: [config, processes, overrides]}, one after another.

Prints {name: [what was said, the error]}. In the case "fails" the step of an RNN raises.
"""

import io
import json
import sys
from contextlib import ExitStack, redirect_stdout
from unittest.mock import patch

from pretrain.commands.dry_run import dry_run_command


def dry_run(name: str, config: str, processes: int, overrides: list[str]) -> list[str]:
    said, error = io.StringIO(), ""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(said))
        if name == "fails":
            from pretrain.rnn.trainer import RnnTrainer

            stack.enter_context(patch.object(RnnTrainer, "losses", side_effect=RuntimeError("in the step")))
        try:
            dry_run_command(config, overrides, processes)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    return [said.getvalue(), error]


if __name__ == "__main__":
    print(json.dumps({name: dry_run(name, *case) for name, case in json.loads(sys.argv[1]).items()}))
