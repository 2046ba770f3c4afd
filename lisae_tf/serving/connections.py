"""REST connections: a bounded number, none of which waits for its header as long as it likes.

aiohttp bounds the time between requests (`keepalive_timeout`), not the number of connections.
"""

import asyncio
import contextlib
import resource
from collections.abc import Iterator

from aiohttp import web

# File descriptors for all that is no connection, and for a burst that is not yet turned away.
_RESERVED = 256
_FEWEST = 16


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
