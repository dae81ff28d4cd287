"""A proxy in front of an S3 server that breaks requests as networks and overloaded stores do. Seeded.

    with FaultyProxy(server, seed=7, rates={Fault.TORN_UPLOAD: 0.1}) as proxy:
        ...                     # clients go to proxy.s3 (its env() or storage_options())
    proxy.injected              # how many of each fault there were

SigV4 signs the Host header: clients sign the proxy's address and the proxy passes it on as it is, which Ceph (without
rgw_dns_name) and moto accept. Connections of clients are kept open between requests, as they are without a proxy.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import urlsplit

from servers.s3_server import S3Server, free_port


class Fault(Enum):
    """What is done to one request."""

    SLOW_DOWN = "answered with 503 SlowDown, the server never asked"
    RESET = "connection reset before the server is asked"
    TORN_UPLOAD = "connection reset with half of the body sent on to the server; needs a body"
    TORN_ANSWER = "connection reset with half of the server's answer sent back"
    DELAY = "held for delay_seconds, and sent on only if the client still waits"
    LOST_ANSWER = "connection reset after the server has done the work"


_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    head: bytes
    body: bytes


class FaultyProxy:
    """Runs in a thread of its own. `rates` are the shares of requests that get each fault; their sum is at most 1."""

    def __init__(
        self,
        server: S3Server,
        *,
        seed: int = 0,
        rates: Mapping[Fault, float] | None = None,
        delay_seconds: float = 60,
    ) -> None:
        self._port = free_port()
        self._upstream = urlsplit(server.endpoint_url)
        self._random = random.Random(seed)
        self._rates = dict(rates or {})
        assert sum(self._rates.values()) <= 1
        self._delay_seconds = delay_seconds
        self._next: list[tuple[Fault, str, str]] = []
        self._is_on = True
        self._lock = threading.Lock()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy")
        self.s3 = replace(server, endpoint_url=f"http://127.0.0.1:{self._port}")
        self.num_requests = 0
        self.injected: Counter[Fault] = Counter()

    def on(self) -> None:
        """Inject faults from the next request on; so it starts."""
        self._is_on = True

    def off(self) -> None:
        """Pass everything on unharmed from the next request on."""
        self._is_on = False

    def fail_next(self, fault: Fault, *, times: int = 1, method: str = "", target: str = "") -> None:
        """Give the next requests of this method, with this text in path or query, this fault, whatever the rates."""
        with self._lock:
            self._next += [(fault, method, target)] * times

    @property
    def num_waiting(self) -> int:
        """How many faults of `fail_next` have found no request yet."""
        return len(self._next)

    def __enter__(self) -> "FaultyProxy":
        self._thread.start()
        self._started.result(timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the proxy's thread did not end"

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        try:
            listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=1 << 20)
        except OSError as error:
            self._started.set_exception(error)
            return
        async with listener:
            self._started.set_result(None)
            await self._stopped.wait()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._handle(request, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            _reset(writer)  # the server is gone, the client is gone, or the test is over
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _choose(self, request: _Request) -> Fault | None:
        with self._lock:
            self.num_requests += 1
            fault = self._draw(request)
            if fault is not None:
                self.injected[fault] += 1
            return fault

    def _draw(self, request: _Request) -> Fault | None:
        if not self._is_on:
            return None
        for number, (fault, method, target) in enumerate(self._next):
            if method in ("", request.method) and target in request.target:
                del self._next[number]
                return fault
        drawn = self._random.random()
        for fault, rate in self._rates.items():
            if drawn < rate:
                # A request without a body cannot be torn; it stays whole, so that rates of others do not grow.
                return None if fault is Fault.TORN_UPLOAD and len(request.body) < 2 else fault
            drawn -= rate
        return None

    async def _handle(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; whether the connection goes on."""
        fault = self._choose(request)
        if fault is Fault.SLOW_DOWN:
            body = b"" if request.method == "HEAD" else _SLOW_DOWN
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
                % len(body)
            )
            writer.write(body)
            await writer.drain()
            return True
        if fault is Fault.RESET:
            _reset(writer)
            return False
        if fault is Fault.DELAY:
            await asyncio.sleep(self._delay_seconds)
            if reader.at_eof():
                return False
        server_reader, server_writer = await asyncio.open_connection(
            self._upstream.hostname, self._upstream.port, limit=1 << 20
        )
        try:
            if fault is Fault.TORN_UPLOAD:
                server_writer.write(request.head + request.body[: len(request.body) // 2])
                await server_writer.drain()
                await asyncio.sleep(0.05)  # the server has read what there is
                _reset(server_writer)
                _reset(writer)
                return False
            server_writer.write(request.head + request.body)
            await server_writer.drain()
            answer = await _read_answer(server_reader, request.method)
        finally:
            server_writer.close()
        if fault is Fault.LOST_ANSWER:
            _reset(writer)
            return False
        writer.write(answer[: len(answer) // 2] if fault is Fault.TORN_ANSWER else answer)
        await writer.drain()
        if fault is Fault.TORN_ANSWER:
            await asyncio.sleep(0.05)  # the client has read its half: a reset throws away what it has not
            _reset(writer)
            return False
        return True


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    """The next request of a connection with its whole body; None where the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    headers = _headers(head)
    assert "transfer-encoding" not in headers, "the proxy takes bodies of a known length only"
    if "expect" in headers:
        # Answered here, and not passed on; it is no part of the signature.
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
        head = b"\r\n".join(lines)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return _Request(method, target, head, body)


async def _read_answer(reader: asyncio.StreamReader, method: str) -> bytes:
    """One whole answer, as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, headers = int(head.split(b" ", 2)[1]), _headers(head)
    if status == 100:
        return await _read_answer(reader, method)
    if method == "HEAD" or status in (204, 304):
        return head
    if "content-length" in headers:
        return head + await reader.readexactly(int(headers["content-length"]))
    assert headers.get("transfer-encoding") == "chunked", f"no length in {head!r}"
    chunks = [head]
    while True:
        chunks.append(await reader.readuntil(b"\r\n"))
        num_bytes = int(chunks[-1].split(b";")[0], 16)
        chunks.append(await reader.readexactly(num_bytes + 2))
        if num_bytes == 0:
            return b"".join(chunks)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: the other side gets "connection reset", at once."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
