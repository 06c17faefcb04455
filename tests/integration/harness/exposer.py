"""A real `kaiso expose`, watched like a router; and the kaisos of other makes that it may meet."""

import socket
import struct

from .router import Router
from .services import Service, bind_tcp, bind_unix
from .stream import Stream
from .wait import DEADLINE


class Exposer(Router):
    """kaiso: where the kaiso is. Then services and listeners, in turn. options: words for `kaiso expose`."""

    def __init__(self, kaiso, *pairs, options=("--threads", "1"), **how):
        how.setdefault("command", ["expose", *options, kaiso, *pairs])
        super().__init__(**how)

    def client(self, number=0, **where):
        """A client of the listener of that number."""
        return self.connect(self.addresses[number], **where)


class FirstKaiso(Service):
    """What the first kaiso does: it closes the connection on a word for tools, by FIN or by RST, and else is silent.

    services: {path: handler(stream)}. lines: all that it was asked, as it came.
    """

    def __init__(self, services, is_resetting=False, unix_path=None):
        self.services = services
        self.is_resetting = is_resetting
        self.lines = []
        super().__init__(bind_unix(unix_path) if unix_path else bind_tcp(), self._route)

    def _route(self, stream):
        line = stream.receive_line()
        self.lines.append(line)
        path = line.rstrip(b"\r\n")
        if path.startswith(b".kaiso/") and self.is_resetting:
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif path == b"":
            stream.send(b"".join(name + b"\r\n" for name in sorted(self.services)) + b"\r\n")
            self._route(stream)
        elif path in self.services:
            self.services[path](stream)


def is_silent(stream: Stream):
    """Nothing has come that was not read, not even an end."""
    stream.sock.settimeout(0)
    try:
        stream.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        stream.sock.settimeout(DEADLINE)
    return False
