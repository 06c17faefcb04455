"""A name server for one service: _kaiso._tcp.test is at host.test, which is this host; for no longer than the answer."""

import socket
import struct
import threading

SRV, A = 33, 1


def name_of(text):
    return b"".join(bytes([len(label)]) + label for label in text.encode().split(b".")) + b"\0"


class NameServer:
    def __init__(self):
        self.port_of_all = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _answer(self, kind):
        if kind == SRV:
            data = struct.pack(">3H", 1, 1, self.port_of_all) + name_of("host.test")
        elif kind == A:
            data = bytes([127, 0, 0, 1])
        else:
            return b""
        return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(data)) + data

    def _serve(self):
        while True:
            try:
                query, peer = self._sock.recvfrom(4096)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            kind = struct.unpack(">H", query[end - 4:end - 2])[0]
            answer = self._answer(kind)
            self._sock.sendto(query[:2] + struct.pack(">5H", 0x8580, 1, bool(answer), 0, 0) + query[12:end] + answer, peer)

    def close(self):
        self._sock.close()
