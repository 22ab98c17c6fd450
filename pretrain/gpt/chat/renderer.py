"""Renders a chat template in a separate process, because a template is a program that may never end.

`python -m pretrain.gpt.chat.renderer` is that process: a JSON line in, a JSON line out. The first line is the
template, each further line a conversation. A conversation that takes more than `SECONDS` of processor time
ends the process; one that takes more than `MEMORY_BYTES`, or makes more than `MOST_CHARACTERS`, gets an
answer that says so.
"""

import json
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

from data_tools import children
from data_tools.children import Child
from pretrain.errors import UserError

SECONDS = 10
"""Processor time for one conversation; the default template takes a hundred thousandth of it."""
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 1 << 24


class Renderer:
    """A template, compiled in a process that ends with this object."""

    def __init__(self, source: str, where: str, seconds: int = SECONDS) -> None:
        """Start the process. Raises UserError if `source` is not a template; `where` is for messages."""
        self._where, self._seconds = where, seconds
        self._process = children.start(
            [sys.executable, "-m", "pretrain.gpt.chat.renderer", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._end = weakref.finalize(self, _end, self._process)
        self._ask({"source": source})

    def render(self, values: Mapping[str, Any]) -> str:
        """The text of a conversation. Raises UserError if the template fails."""
        return str(self._ask(values))

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            what = (
                f"takes more than {self._seconds} s for one conversation: does a loop in it ever end?"
                if code in (-signal.SIGXCPU, -signal.SIGKILL)
                else f"ended the process that renders it with {code}"
            )
            raise UserError(f"{self._where}: {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self._where}{answer['error']}")
        return answer["text"]


def _end(process: Child) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.kill()
    process.wait()


def main() -> None:
    """The process: answers until its input ends."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the one that asks decides
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    template: Any = None
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + int(sys.argv[1]))
        try:
            if template is None:
                template, text = environment.from_string(request["source"]), ""
            else:
                text = template.render(request)
            answer = {"text": text}
            if len(text) > MOST_CHARACTERS:
                answer = {"error": f": makes more than {MOST_CHARACTERS:,} characters of a conversation"}
        except MemoryError:
            answer = {"error": f": takes more than {MEMORY_BYTES:,} bytes of memory"}
        except RecursionError:
            answer = {"error": ": is nested too deeply"}
        except TemplateError as error:
            number = getattr(error, "lineno", None) if template is None else None
            what = "is no Jinja template: " if template is None else ""
            answer = {"error": f"{f':{number}' if number else ''}: {what}{error}"}
        except Exception as error:  # a template is a program that the user wrote
            answer = {"error": f": {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _limit(kind: int, most: int) -> None:
    """Set the soft limit, which the process itself may raise again, up to the hard limit."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _refuse(message: str) -> NoReturn:
    """`raise_exception` in a template."""
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """`tojson` as transformers has it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


if __name__ == "__main__":
    main()
