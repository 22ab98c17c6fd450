"""Access to the package lm_eval, which not every installation has."""

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
    "DISABLE_MULTIPROC": "1",  # its bootstrap would fork this rank
}


def require_harness() -> None:
    """Set up the harness to stay quiet and off the network; call it before importing anything of it.

    Raises UserError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "tasks of lm-evaluation-harness need the package lm_eval: pip install 'pretrain[harness]'"
        )
    os.environ.update(_SETTINGS)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns about raises an error here


def harness_folder() -> Path:
    """The folder of the harness's own task files."""
    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.origin is not None, "require_harness has looked"
    return Path(found.origin).resolve().parent / "tasks"


@contextmanager
def confined(*, show: bool) -> Iterator[None]:
    """Make the harness render templates in a sandbox without Python beyond their fields, and draw no progress
    bars.

    Args:
        show: show our own progress bar while requests are built.
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
