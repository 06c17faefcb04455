"""Bytes on their way, looked at one by one: what clients and services of the soak have in common.

A stream is a stretch of the harness's noise that begins at an offset of its own, so that bytes of another session are
as wrong as lost, doubled and changed ones.
"""

import pathlib
import select
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from harness.stream import noise_piece  # noqa: E402

DEADLINE = 60.0  # seconds without any progress: then something hangs
RESET = struct.pack("ii", 1, 0)


class WrongBytes(Exception):
    """What came is not what was sent: nothing excuses that."""


class Hang(Exception):
    """Nothing moved until the deadline."""


class Cut(Exception):
    """The stream ended before it was whole: by a reset, or cleanly."""

    def __init__(self, text, is_reset):
        super().__init__(text)
        self.is_reset = is_reset


class Expected:
    """Of a stream that comes: compares, and counts."""

    def __init__(self, at, count=None):
        self.at, self.count, self.done = at, count, 0

    def feed(self, chunk):
        done = 0
        while done < len(chunk):
            piece = bytes(noise_piece(self.at + self.done, len(chunk) - done))
            if chunk[done:done + len(piece)] != piece:
                self._complain(chunk[done:done + len(piece)], piece)
            done += len(piece)
            self.done += len(piece)
        if self.count is not None and self.done > self.count:
            raise WrongBytes(f"{self.done} bytes came where {self.count} had been sent")

    def _complain(self, got, piece):
        wrong = next(index for index, (one, other) in enumerate(zip(got, piece)) if one != other)
        raise WrongBytes(f"byte {self.done + wrong} of the stream at {self.at} is wrong: "
                         f"{got[wrong:wrong + 32].hex()} where {piece[wrong:wrong + 32].hex()} was sent")

    @property
    def is_whole(self):
        return self.done == self.count


class Outgoing:
    """Of a stream to be sent: pieces of it."""

    def __init__(self, at, count):
        self.at, self.count, self.done = at, count, 0

    @property
    def rest(self):
        return self.count - self.done

    def piece(self, most):
        return noise_piece(self.at + self.done, min(most, self.rest))


class Rhythm:
    """How fast one side moves: so many bytes at a time, so long a pause now and then. gate: an Event to wait for."""

    def __init__(self, chunk=1 << 18, pause=0.0, gate=None):
        self.chunk, self.pause, self.gate = chunk, pause, gate

    def wait(self):
        if self.pause:
            time.sleep(self.pause)
        if self.gate is not None:
            self.gate.wait()


def wait_for(sock, events):
    poll = select.poll()
    poll.register(sock, events)
    found = poll.poll(DEADLINE * 1000)
    if not found:
        raise Hang(f"nothing for {DEADLINE:g} s")
    return found[0][1]


def receive(sock, most):
    """A chunk; b"" at the end; None when there is none yet. A reset is a Cut."""
    try:
        return sock.recv(most)
    except (BlockingIOError, InterruptedError):
        return None
    except (ConnectionResetError, BrokenPipeError, TimeoutError) as error:
        raise Cut(f"{error.strerror}", True) from None


def send(sock, piece):
    """How many bytes went; None when nobody will read any more."""
    try:
        return sock.send(piece, socket.MSG_NOSIGNAL)
    except (BlockingIOError, InterruptedError):
        return 0
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        return None


def end_sending(sock):
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side is gone: reading will tell


def duplex(sock, outgoing, feed, rhythm, ends=True):
    """Sends all of outgoing (then, with ends, the end), and feeds what comes, up to its end. A reset is a Cut.

    Returns whether all of outgoing was taken.
    """
    sock.setblocking(False)
    is_reading = is_sending = True
    while is_reading or is_sending:
        rhythm.wait()
        if is_sending and outgoing.rest == 0:
            is_sending = False
            if ends:
                end_sending(sock)
            continue
        found = wait_for(sock, (select.POLLIN if is_reading else 0) | (select.POLLOUT if is_sending else 0))
        if is_reading and found & (select.POLLIN | select.POLLHUP | select.POLLERR):
            chunk = receive(sock, rhythm.chunk)
            if chunk:
                feed(chunk)
            elif chunk is not None:
                is_reading = False
        if is_sending and found & (select.POLLOUT | select.POLLHUP | select.POLLERR):
            count = send(sock, outgoing.piece(rhythm.chunk))
            if count is None:
                is_sending = False
            else:
                outgoing.done += count
    return outgoing.rest == 0


def send_all(sock, data, rhythm):
    """Whole, or as far as it is taken: False then."""
    sock.setblocking(False)
    while data:
        rhythm.wait()
        wait_for(sock, select.POLLOUT)
        count = send(sock, data[:rhythm.chunk])
        if count is None:
            return False
        data = data[count:]
    return True


def receive_exactly(sock, count, rhythm):
    sock.setblocking(False)
    got = bytearray()
    while len(got) < count:
        rhythm.wait()
        wait_for(sock, select.POLLIN)
        chunk = receive(sock, min(rhythm.chunk, count - len(got)))
        if chunk == b"":
            raise Cut(f"the end after {len(got)} of {count} bytes", False)
        got += chunk or b""
    return bytes(got)


def receive_line(sock, rhythm, most=4096):
    """Without its LF, and not a byte behind it."""
    sock.setblocking(False)
    got = bytearray()
    while not got.endswith(b"\n"):
        if len(got) >= most:
            raise WrongBytes(f"no line within {most} bytes: {bytes(got[:80])!r}")
        rhythm.wait()
        wait_for(sock, select.POLLIN)
        ahead = None
        try:
            ahead = sock.recv(most, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        except (ConnectionResetError, BrokenPipeError, TimeoutError) as error:
            raise Cut(f"{error.strerror} inside a line: {bytes(got)!r}", True) from None
        if not ahead:
            raise Cut(f"the end inside a line: {bytes(got)!r}", False)
        got += sock.recv(ahead.find(b"\n") + 1 or len(ahead))
    return bytes(got[:-1])


def reset(sock):
    """Closes with a RST where there is such a thing."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
