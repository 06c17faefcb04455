"""One end of a connection, with deadlines and expectations; and streams of checked bytes."""

import random
import socket
import struct
import zlib

from .wait import DEADLINE, Overdue


def format_address(address):
    """As the router's log writes it."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return "unix"


class Stream:
    """Wraps a connected socket. Every wait has a deadline; what did not come is shown with what did."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(DEADLINE)
        self.name = format_address(sock.getsockname())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data)
        return self

    def line(self, text, end=b"\r\n"):
        return self.send((text.encode() if isinstance(text, str) else text) + end)

    def _receive_some(self, limit, so_far):
        try:
            return self.sock.recv(limit)
        except TimeoutError:
            last = bytes(so_far[-80:])
            raise Overdue(f"nothing came for {DEADLINE:g} s after {len(so_far)} bytes, ending {last!r}") from None

    def receive(self, count):
        """Exactly count bytes."""
        got = bytearray()
        while len(got) < count:
            chunk = self._receive_some(count - len(got), got)
            assert chunk, f"the stream ended after {len(got)} of {count} bytes: {bytes(got[-80:])!r}"
            got += chunk
        return bytes(got)

    def receive_line(self):
        got = bytearray()
        while not got.endswith(b"\n"):
            chunk = self._receive_some(1, got)
            assert chunk, f"the stream ended inside a line: {bytes(got)!r}"
            got += chunk
        return bytes(got)

    def receive_list(self):
        """A whole list, its empty line included. Returns its bytes; takes not one byte more."""
        got = bytearray()
        while True:
            try:
                ahead = self.sock.recv(1 << 16, socket.MSG_PEEK)
            except TimeoutError:
                raise Overdue(f"the list stalled after {len(got)} bytes, ending {bytes(got[-80:])!r}") from None
            assert ahead, f"the stream ended inside a list: {bytes(got[-80:])!r}"
            if len(got) < 2 and (got + ahead).startswith(b"\r\n"):
                return bytes(got + self.sock.recv(2 - len(got)))
            tail = bytes(got[-2:])
            at = (tail + ahead).find(b"\n\r\n")
            if at >= 0:
                return bytes(got + self.sock.recv(at + 3 - len(tail)))
            got += self.sock.recv(len(ahead))

    def receive_all(self):
        """Everything up to a clean end of file."""
        got = bytearray()
        while True:
            chunk = self._receive_some(1 << 18, got)
            if not chunk:
                return bytes(got)
            got += chunk

    def exchange(self, data):
        """To an echo service and back."""
        self.send(data)
        got = self.receive(len(data))
        assert got == data, f"sent {data[:80]!r}, the echo was {got[:80]!r}"
        return self

    def expect_end(self):
        """A clean end of file comes next, and no byte before it."""
        chunk = self._receive_some(4096, b"")
        assert chunk == b"", f"expected the end, got {chunk[:200]!r}"

    def expect_reset(self):
        """A reset comes, after whatever bytes; not a clean end."""
        try:
            while True:
                if not self._receive_some(1 << 18, b""):
                    break
        except ConnectionResetError:
            return
        raise AssertionError("the stream ended cleanly, not with a reset")

    def expect_closed(self):
        """No byte, and the end: clean, or a reset where the router left bytes of ours unread."""
        try:
            self.expect_end()
        except ConnectionResetError:
            pass

    def end(self):
        """Ends the sending direction."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self):
        """Closes with a RST instead of a FIN (TCP)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self.sock.close()


# A block of noise that is no power of two long, so that a lost or doubled buffer shifts everything behind it.
_NOISE = random.Random(37812).randbytes(1_000_003)


def noise(count):
    """count bytes of the stream that send_noise() sends."""
    return (_NOISE * (count // len(_NOISE) + 1))[:count]


def noise_piece(at, most):
    """At most that many bytes of the stream from there on, without a copy."""
    start = at % len(_NOISE)
    return memoryview(_NOISE)[start : start + most]


def noise_sum(count):
    """(count, checksum) of that stream."""
    whole, rest = divmod(count, len(_NOISE))
    checksum = 0
    for _ in range(whole):
        checksum = zlib.crc32(_NOISE, checksum)
    return count, zlib.crc32(_NOISE[:rest], checksum)


def send_noise(stream, count, end=True):
    view = memoryview(_NOISE)
    sent = 0
    while sent < count:
        at = sent % len(_NOISE)
        sent += stream.sock.send(view[at : at + min(1 << 18, count - sent)])
    if end:
        stream.end()
    return sent


def receive_sum(stream, limit=None):
    """Reads to the end of file, or limit bytes: (how many, their checksum)."""
    received, checksum = 0, 0
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    while limit is None or received < limit:
        room = len(buffer) if limit is None else min(len(buffer), limit - received)
        try:
            count = stream.sock.recv_into(buffer, room)
        except TimeoutError:
            raise Overdue(f"the stream stalled after {received} bytes") from None
        if count == 0:
            break
        checksum = zlib.crc32(view[:count], checksum)
        received += count
    return received, checksum


def fill(stream, limit=256 << 20):
    """Sends noise until nobody takes any more (0.3 s without room); returns how much went out."""
    view = memoryview(_NOISE)
    sent = 0
    stream.sock.settimeout(0.3)
    try:
        while sent < limit:
            at = sent % len(_NOISE)
            sent += stream.sock.send(view[at : at + (1 << 18)])
    except TimeoutError:
        pass
    finally:
        stream.sock.settimeout(DEADLINE)
    return sent
