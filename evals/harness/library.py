"""The package lm_eval, which not every installation has."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from data_tools.progress import Progress
from pretrain.errors import UserError

_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DISABLE_MULTIPROC": "1",  # its bootstrap would fork ranks
}


def require_harness() -> None:
    """Keep the harness off the network and quiet; before anything of it is imported.

    Raises UserError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "tasks of lm-evaluation-harness need the package lm_eval: pip install 'pretrain[harness]'"
        )
    os.environ.update(_SETTINGS)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns of is refused here


def harness_folder() -> Path:
    """Where the harness's own task files lie."""
    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.origin is not None, "require_harness has looked"
    return Path(found.origin).resolve().parent / "tasks"


@contextmanager
def confined(*, show: bool) -> Iterator[None]:
    """Have the harness render templates that reach no Python beyond their fields, and draw no bars.

    Args:
        show: how far the building of requests is.
    """
    import lm_eval.api.task
    import lm_eval.utils
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from tqdm import tqdm

    def bar(examples: Sequence[Any], **_: Any) -> Iterator[Any]:
        if not show:
            yield from examples
            return
        with Progress("building requests", len(examples), "examples") as progress:
            for example in examples:
                yield example
                progress.advance()

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lm_eval.utils.env.filters["regex_replace"]
    silent = partialmethod(tqdm.__init__, disable=True)
    with (
        patch.object(lm_eval.utils, "env", environment),
        patch.object(lm_eval.api.task, "tqdm", bar),
        patch.object(tqdm, "__init__", silent),
    ):
        yield
