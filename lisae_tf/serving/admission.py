"""What the server lets in: connections, requests under way and held, and their memory.

A request takes a place only once it is whole: half of one is in nobody's way. No TensorFlow.
"""

import asyncio
import contextlib
import math
import resource
import threading
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from lisae_tf.exported.signatures import RequestError

# File descriptors for all that is no connection, and for a burst that is not yet turned away.
_RESERVED = 256
_FEWEST = 16


class Memory:
    """Bytes that all requests may take up together; whoever needs more than is left waits.

    Args:
        size: bytes; one request alone may have all of them.
    """

    def __init__(self, size: int):
        self.size = size
        self._left = size
        self._freed = threading.Condition()
        self._turn = threading.Lock()  # else small requests would pass a large one for ever

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Waits in this thread until so many bytes are free, and holds them."""
        size = min(size, self.size)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._freed:
                self._left += size
                self._freed.notify_all()


def _full() -> RequestError:
    message = "the server holds as many requests as it may; try again"
    return RequestError("RESOURCE_EXHAUSTED", message)


class Admission:
    """The requests of one front, on its event loop.

    Args:
        requests: held at a time, and as many on their way.
        seconds: for a request to arrive, at most.
        stalled: for it to arrive without what `rate` gives.
        rate: bytes a second below which a body is given up after that time.
        size: bytes that bodies on their way may hold together; at least what one body may have.
    """

    def __init__(
        self, requests: int, seconds: float, stalled: float, rate: int, size: float = math.inf
    ):
        self._free = self._requests = requests
        self._seconds = seconds
        self._stalled = stalled
        self._rate = rate
        self._size = size
        self._arriving: dict[asyncio.Timeout, float] = {}  # and when they began, oldest first
        self._received: dict[asyncio.Timeout, int] = {}  # bytes of those that have sent any

    @contextlib.asynccontextmanager
    async def arriving(self) -> AsyncIterator[asyncio.Timeout]:
        """While a request arrives; of too many the oldest is given up.

        Raises:
            RequestError: DEADLINE_EXCEEDED, it did not arrive in time; RESOURCE_EXHAUSTED, it gave
                way to others.
        """
        if len(self._arriving) >= self._requests:
            self._give_up(next(iter(self._arriving)))
        scope = asyncio.timeout(min(self._stalled, self._seconds))
        self._arriving[scope] = asyncio.get_running_loop().time()
        try:
            async with scope:
                yield scope
        except TimeoutError as error:
            if scope not in self._arriving:
                raise _full() from error
            message = "the request did not arrive in time; send it faster, or smaller batches"
            raise RequestError("DEADLINE_EXCEEDED", message) from error
        finally:
            self._arriving.pop(scope, None)
            self._received.pop(scope, None)

    def _give_up(self, scope: asyncio.Timeout) -> None:
        del self._arriving[scope]
        self._received.pop(scope, None)
        scope.reschedule(0)

    def received(self, scope: asyncio.Timeout, size: int) -> None:
        """Gives a request more time for what has come of it, in bytes.

        Where those on their way hold too much together, the oldest of them are given up.
        """
        began = self._arriving.get(scope)
        if began is not None:
            seconds = min(self._stalled + size / self._rate, self._seconds)
            scope.reschedule(began + seconds)
            self._received[scope] = size
            while sum(self._received.values()) > self._size:
                self._give_up(next(iter(self._received)))

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """While a whole request is held.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, there are too many.
        """
        if self._free == 0:
            raise _full()
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def that_fit(wanted: int) -> int:
    """Of so many connections, how many each of two fronts can have with the descriptors here."""
    there, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if there == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, (there - _RESERVED) // 2), _FEWEST)


class Connections:
    """Makes the protocol of each new connection; the oldest idle one gives way to it.

    Args:
        server: of aiohttp; knows what is open.
        most: connections at a time.
        header_seconds: for the first request's header to arrive.
    """

    def __init__(self, server: web.Server, most: int, header_seconds: float):
        self._server = server
        self._most = most
        self._header_seconds = header_seconds
        self._fresh: dict[web.RequestHandler, None] = {}  # without a request so far, oldest first
        self._busy: set[web.RequestHandler] = set()

    def __call__(self) -> web.RequestHandler:
        """The protocol of a connection that was just accepted."""
        connection, loop = self._server(), asyncio.get_running_loop()
        self._fresh[connection] = None
        loop.call_later(self._header_seconds, self._end_fresh, connection)
        loop.call_later(0, self._make_way)  # then it counts, and so do others of the same burst
        return connection

    @contextlib.contextmanager
    def request(self, connection: web.RequestHandler) -> Iterator[None]:
        """While a request of this connection is answered."""
        self._fresh.pop(connection, None)
        self._busy.add(connection)
        try:
            yield
        finally:
            self._busy.discard(connection)

    def _end_fresh(self, connection: web.RequestHandler) -> None:
        if connection in self._fresh:
            del self._fresh[connection]
            connection.force_close()

    def _make_way(self) -> None:
        """Of too many ends those that never asked anything, or else those that ask nothing now."""
        if len(self._server.connections) <= self._most:
            return
        opened = [each for each in self._server.connections if each.transport is not None]
        idle = [each for each in opened if each not in self._busy]
        idle.sort(key=lambda connection: connection not in self._fresh)
        for connection in idle[: max(len(opened) - self._most, 0)]:
            self._fresh.pop(connection, None)
            connection.force_close()
