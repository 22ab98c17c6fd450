"""A file server on the loopback device that counts what is asked of it, and fails when it is told to."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class FileServer(ThreadingHTTPServer):
    """`got` counts the files that were sent.

    `failures` says how often a file is refused first, `cuts` how often it breaks off in the middle.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.got: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.server.failures[name] > 0:
            self.server.failures[name] -= 1
            self.send_error(500)
            return
        self.server.got[name] += 1
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        name = self.path.rpartition("/")[2]
        if self.server.cuts[name] > 0:
            self.server.cuts[name] -= 1
            data = source.read()
            outputfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        super().copyfile(source, outputfile)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
