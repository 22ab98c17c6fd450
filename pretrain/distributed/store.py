"""The key-value store of a job's ranks: torch's TCPStore, only for those who know the job's secret.

torch's own server serves everybody, and shows everybody its keys. This one speaks torch's protocol with
torch's own clients (torch.distributed.TCPStore, of the tested version), but serves only keys under a prefix
that is derived from the secret. A client first makes it prove that it knows the secret too (`knock`); the
answer includes the salt of the prefix. Anyone without the secret can only connect.

It is a process of its own, so that Python's GIL in a rank cannot delay the others, and it ends with the
process that started it. It runs this file alone, without the rest of the package or any library.
"""

import asyncio
import hmac
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections import defaultdict
from enum import IntEnum

KNOCK = 0xFF
"""First byte of a client that asks for a proof; torch's clients begin with VALIDATE."""
NONCE_BYTES = 32
MAX_KEY, MAX_VALUE, MAX_KEYS = 2**13, 2**26, 2**17
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_MAGIC = 0x3C85F7CE
_READY, _NOT_READY = b"\0", b"\1"
_STOP_WAITING, _WAIT_CANCELLED = b"\0", b"\1"


class Impostor(Exception):
    """The server does not know the secret."""


class StoreServer:
    """A store on a socket, in a process of its own, until `close` or the end of this process."""

    def __init__(self, listener: socket.socket, secret: bytes) -> None:
        """Start the server process; it takes the listening socket over."""
        from data_tools import children  # not at module level: the server process runs this file alone

        self.port: int = listener.getsockname()[1]
        # Signals that end a job are sent to all of its processes; this one must end last.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            with listener:
                self._process = children.start(
                    [sys.executable, "-I", "-S", __file__, str(listener.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[listener.fileno()],
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self._process.stdin is not None
        self._process.stdin.write(secret.hex().encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def knock(connection: socket.socket, secret: bytes) -> str:
    """Make a server prove that it knows the secret, over a new connection.

    Returns:
        The prefix of all keys that it serves.

    Raises:
        OSError: no answer, or none within the connection's timeout.
        Impostor: the answer was not made with the secret.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    connection.sendall(bytes([KNOCK]) + nonce)
    with connection.makefile("rb") as answers:
        answer = answers.read(NONCE_BYTES + len(_proof(secret, nonce, nonce)))
    salt, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
    if not answer:
        raise ConnectionResetError("closed without an answer")
    if not hmac.compare_digest(proof, _proof(secret, nonce, salt)):
        raise Impostor
    return _prefix(secret, salt)


def _proof(secret: bytes, nonce: bytes, salt: bytes) -> bytes:
    return hmac.digest(secret, b"this is the store" + nonce + salt, "sha256")


def _prefix(secret: bytes, salt: bytes) -> str:
    return hmac.digest(secret, b"prefix of the keys" + salt, "sha256").hex()


class _Query(IntEnum):
    """Query codes, from torch/csrc/distributed/c10d/TCPStoreBackend.hpp."""

    VALIDATE = 0
    SET = 1
    COMPARE_SET = 2
    GET = 3
    ADD = 4
    CHECK = 5
    WAIT = 6
    DELETE_KEY = 8
    APPEND = 9
    MULTI_GET = 10
    MULTI_SET = 11
    CANCEL_WAIT = 12
    PING = 13


class _StrangerError(Exception):
    """A client sent a request that no rank of the job sends."""


class _Values:
    """Keys and values, and who waits for a key."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = defaultdict(set)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def get(self, key: bytes) -> bytes:
        return self._values.get(key, b"")

    def set(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(None)

    def compare_set(self, key: bytes, expected: bytes, value: bytes) -> bytes:
        """The value afterwards; `expected` if there is none."""
        if self._values.get(key, b"") == expected and (key in self._values or not expected):
            self.set(key, value)
            return value
        return self._values.get(key, expected)

    def add(self, key: bytes, amount: int) -> int:
        total = int(self._values.get(key, b"0")) + amount
        self.set(key, str(total).encode())
        return total

    def delete(self, key: bytes) -> int:
        return int(self._values.pop(key, None) is not None)

    async def wait(self, keys: list[bytes]) -> None:
        for key in keys:
            while key not in self._values:
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting[key].add(waiting)
                try:
                    await waiting
                finally:
                    self._waiting.get(key, set()).discard(waiting)


class _Client:
    def __init__(self, server: "_Server", reader: StreamReader, writer: StreamWriter) -> None:
        self._values, self._server = server.values, server
        self._reader, self._writer = reader, writer
        self._ahead: asyncio.Task[bytes] | None = None
        """The byte after the current query, if one was awaited."""

    async def serve(self) -> None:
        """Answer until the client disconnects.

        Raises:
            _StrangerError, asyncio.IncompleteReadError, ConnectionError: it must be disconnected, or is gone.
        """
        first = await self._byte()
        if first == KNOCK:
            nonce = await self._reader.readexactly(NONCE_BYTES)
            self._writer.write(self._server.salt + _proof(self._server.secret, nonce, self._server.salt))
            await self._writer.drain()
            return
        if first != _Query.VALIDATE or await self._number("<I") != _MAGIC:
            raise _StrangerError
        while True:
            await self._answer(await self._byte())
            await self._writer.drain()

    async def _answer(self, query: int) -> None:
        values, write = self._values, self._writer.write
        match query:
            case _Query.PING:
                write(await self._reader.readexactly(4))
            case _Query.SET:
                values.set(await self._key(), await self._value())
            case _Query.COMPARE_SET:
                arguments = await self._key(), await self._value(), await self._value()
                write(_sized(values.compare_set(*arguments)))
            case _Query.GET:
                write(_sized(values.get(await self._key())))
            case _Query.ADD:
                key, amount = await self._key(), await self._number("<q")
                try:
                    write(struct.pack("<q", values.add(key, amount)))
                except (ValueError, struct.error):
                    raise _StrangerError from None
            case _Query.CHECK:
                keys = await self._keys()
                write(_READY if all(key in values for key in keys) else _NOT_READY)
            case _Query.WAIT:
                await self._wait(await self._keys())
            case _Query.CANCEL_WAIT:  # the key had been set just before
                write(_WAIT_CANCELLED)
            case _Query.DELETE_KEY:
                write(struct.pack("<q", values.delete(await self._key())))
            case _Query.APPEND:
                key, more = await self._key(), await self._value()
                values.set(key, values.get(key) + more)
            case _Query.MULTI_GET:
                write(b"".join([_sized(values.get(key)) for key in await self._keys()]))
            case _Query.MULTI_SET:
                for _ in range(await self._count()):
                    values.set(await self._key(), await self._value())
            case _:
                raise _StrangerError

    async def _wait(self, keys: list[bytes]) -> None:
        if not all(key in self._values for key in keys):
            waits = asyncio.ensure_future(self._values.wait(keys))
            self._ahead = asyncio.ensure_future(self._reader.readexactly(1))
            try:
                await asyncio.wait((waits, self._ahead), return_when=asyncio.FIRST_COMPLETED)
                if not waits.done():
                    if await self._byte() != _Query.CANCEL_WAIT:
                        raise _StrangerError
                    self._writer.write(_WAIT_CANCELLED)
                    return
            finally:
                waits.cancel()
        self._writer.write(_STOP_WAITING)

    async def _byte(self) -> int:
        read, self._ahead = self._ahead, None
        return (await (read or self._reader.readexactly(1)))[0]

    async def _number(self, kind: str) -> int:
        number: int
        (number,) = struct.unpack(kind, await self._reader.readexactly(struct.calcsize(kind)))
        return number

    async def _text(self, most: int) -> bytes:
        size = await self._number("<Q")
        if size > most:
            raise _StrangerError
        return await self._reader.readexactly(size)

    async def _key(self) -> bytes:
        key = await self._text(MAX_KEY)
        if not hmac.compare_digest(key[: len(self._server.prefix)], self._server.prefix):
            raise _StrangerError
        return key

    async def _value(self) -> bytes:
        return await self._text(MAX_VALUE)

    async def _count(self) -> int:
        count = await self._number("<Q")
        if count > MAX_KEYS:
            raise _StrangerError
        return count

    async def _keys(self) -> list[bytes]:
        return [await self._key() for _ in range(await self._count())]


class _Server:
    """The values and the connections."""

    def __init__(self, secret: bytes) -> None:
        self.secret, self.salt = secret, secrets.token_bytes(NONCE_BYTES)
        # the form in which torch's clients send keys of a PrefixStore
        self.prefix = f"/{_prefix(secret, self.salt)}/".encode()
        self.values = _Values()
        self._told = False

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await _Client(self, reader, writer).serve()
        except _StrangerError:
            self._tell(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _tell(self, writer: StreamWriter) -> None:
        """Warn once only: anyone who can reach the port could try forever."""
        if self._told:
            return
        self._told = True
        host, port = writer.get_extra_info("sockname")[:2]
        print(
            f"pretrain: {writer.get_extra_info('peername')[0]} reached the ranks' store at {host}:{port} "
            "without this job's secret and was sent away; further ones are not reported (docs/security.md)",
            file=sys.stderr,
            flush=True,
        )


def _sized(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


async def _run(listener: socket.socket, secret: bytes) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await asyncio.start_server(_Server(secret).serve, sock=listener, backlog=socket.SOMAXCONN)
    await ended.wait()
    os._exit(0)  # no rank waits for an answer any more


def main(arguments: list[str]) -> None:
    """Serve on a descriptor until standard input closes; its first line is the secret."""
    secret = bytes.fromhex(sys.stdin.buffer.readline().decode())
    asyncio.run(_run(socket.socket(fileno=int(arguments[0])), secret))


if __name__ == "__main__":
    main(sys.argv[1:])
