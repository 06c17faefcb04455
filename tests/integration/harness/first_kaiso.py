"""The first kaiso, as far as a client can tell it from ours: silent, and without words for tools."""

from .services import Service, bind_tcp


class FirstKaiso(Service):
    """services: {name: handler(stream)}, all in bytes. Unknown names, and `.kaiso/…`, close without a word."""

    def __init__(self, services):
        self.services = services
        self.lines = []  # every request, in the order of their coming
        super().__init__(bind_tcp(), self._serve)

    def _serve(self, stream):
        line = self._read_line(stream)
        while line == b"":
            stream.send(b"".join(name + b"\r\n" for name in sorted(self.services)) + b"\r\n")
            line = self._read_line(stream)
        if line in self.services:
            self.services[line](stream)

    def _read_line(self, stream):
        """None when the client has ended."""
        line = b""
        while not line.endswith(b"\n"):
            byte = stream.sock.recv(1)
            if not byte:
                return None
            line += byte
        self.lines.append(line.rstrip(b"\r\n"))
        return self.lines[-1]
