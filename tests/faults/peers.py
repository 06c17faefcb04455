"""Clients and services that bear whatever a broken router does, and judge what came of it."""

import os
import select
import socket
import struct
import threading
import time

from harness.stream import noise
from harness.wait import IS_SANITIZED

PATIENCE = 15.0 if IS_SANITIZED else 3.0  # seconds after which a session that was hit hangs


class Violation(AssertionError):
    """What must not be, whatever fails."""


def reset(sock):
    """Closes a TCP connection with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def say(sock, data):
    """Sends what fits; that it is not wanted shows when the answer is read."""
    try:
        sock.sendall(data)
    except OSError:
        pass


def pump(sock, data=b"", end=True, enough=None, patience=None):
    """Sends data, then the end if it is to, while it receives up to the end, or enough bytes.

    (what was received, how that ended): "end", "reset", "enough" or "late".
    """
    sock.setblocking(False)
    poll = select.poll()
    deadline = time.monotonic() + (patience or PATIENCE)
    view, sent, got, is_ended, was_reset = memoryview(data), 0, bytearray(), False, False
    while True:
        if sent == len(data) and end and not is_ended:
            is_ended = True
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        if enough is not None and len(got) >= enough and sent == len(data):
            return bytes(got), "enough"
        poll.register(sock, select.POLLIN | (select.POLLOUT if sent < len(data) else 0))
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return bytes(got), "late"
        try:
            if sent < len(data):
                sent += sock.send(view[sent:sent + (1 << 18)])
        except BlockingIOError:
            pass
        except OSError as error:
            sent, end = len(data), False  # nobody reads any more; there may be something to read
            was_reset = isinstance(error, ConnectionResetError)  # which a socket tells once
        try:
            chunk = sock.recv(1 << 18)
        except BlockingIOError:
            continue
        except OSError:
            return bytes(got), "reset"
        if not chunk:
            return bytes(got), "reset" if was_reset else "end"
        got += chunk


class Call:
    """One connection of a service: what it received, what it sent, and how its stream in ended."""

    def __init__(self):
        self.received = bytearray()
        self.sent = 0
        self.ended = None  # "end" or "reset"; None while it lasts
        self.over = threading.Event()


class Service:
    """Serves each client with handler(sock, call) in a thread of its own. calls() tells what there was.

    Clients come by connecting; with receiving they are handed over by who connects: "one" at a time, or "lasting".
    """

    def __init__(self, listener, handler, receiving=None):
        self.listener = listener
        self.is_tcp = listener.family != socket.AF_UNIX
        self.handler = handler
        self.receiving = receiving
        self._senders = []  # who hand over
        self._calls = []
        self._error = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._wake = os.eventfd(0)
        listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._is_closed:
            poll = select.poll()
            with self._lock:
                for one in (self.listener, *self._senders):
                    poll.register(one, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self._wake:
                    os.eventfd_read(self._wake)
            with self._lock:
                self._collect()

    def _collect(self):
        """Takes whoever has come so far."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                break
            if not self.receiving:
                self._begin(sock)
                continue
            sock.setblocking(False)
            self._senders.append(sock)
            if self.receiving == "lasting":
                try:
                    sock.send(b"+", socket.MSG_NOSIGNAL)
                except OSError:
                    pass  # it has sent a client and closed
        for sock in list(self._senders):
            while self._receive(sock):
                pass

    def _receive(self, sock):
        try:
            data, fds, _, _ = socket.recv_fds(sock, 64, 64)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        if len(data) != len(fds) or data.strip(b"*"):
            self._error = Violation(f"a hand-over of {data!r} with {len(fds)} descriptors")
        for fd in fds:
            self._begin(socket.socket(fileno=fd))
        if not data:
            self._senders.remove(sock)
            sock.close()
        return bool(data)

    def _begin(self, sock):
        call = Call()
        self._calls.append(call)
        sock.setblocking(True)
        threading.Thread(target=self._serve, args=(sock, call), daemon=True).start()

    def _serve(self, sock, call):
        try:
            self.handler(sock, call)
        except OSError:
            call.ended = call.ended or "reset"
        finally:
            sock.close()
            call.over.set()

    def calls(self, what):
        """Those since the last time, each of which must be over."""
        with self._lock:
            self._collect()
            calls, self._calls = self._calls, []
        os.eventfd_write(self._wake, 1)
        if self._error:
            raise self._error
        for call in calls:
            if not call.over.wait(PATIENCE):
                raise Violation(f"the service of {what} waits for an end that does not come")
        return calls

    def close(self):
        self._is_closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        for one in (self.listener, *self._senders):
            one.close()


def echo(sock, call):
    while True:
        chunk = sock.recv(1 << 18)
        if not chunk:
            call.ended = "end"
            return
        call.received += chunk
        sock.sendall(chunk)
        call.sent += len(chunk)


def answer_late(sock, call):
    """Reads nothing for a moment, then all; answers with how much it was."""
    time.sleep(0.03)
    while chunk := sock.recv(1 << 18):
        call.received += chunk
    call.ended = "end"
    answer = b"%d" % len(call.received)
    sock.sendall(answer)
    call.sent = len(answer)


SOURCE = noise(3_000_000)


def source(sock, call):
    """Sends, and listens to nothing but the end."""
    view = memoryview(SOURCE)
    for at in range(0, len(view), 1 << 18):
        sock.sendall(view[at:at + (1 << 18)])
    call.sent = len(view)
    sock.shutdown(socket.SHUT_WR)
    while chunk := sock.recv(1 << 16):
        call.received += chunk
    call.ended = "end"


def break_off(sock, call):
    """Takes ten bytes, answers five, resets."""
    while len(call.received) < 10:
        chunk = sock.recv(10 - len(call.received))
        if not chunk:
            call.ended = "end"
            return
        call.received += chunk
    sock.sendall(b"short")
    call.sent = 5
    call.ended = "own"
    reset(sock)


# ---- judgements

def judge_client(got, how, expected, what, is_strict, calls=(), may_reset=True):
    """What a client of a relay has seen: all, or the beginning and then no clean end."""
    if how == "late":
        raise Violation(f"{what}: the client waits for an end that does not come, after {len(got)} bytes")
    if not expected.startswith(got):
        raise Violation(f"{what}: wrong bytes, {len(got)} of them, ending {got[-40:]!r}")
    if is_strict and (len(got) < len(expected) or how == "reset"):
        raise Violation(f"{what}: {len(got)} of {len(expected)} bytes, then {how}, though nothing failed")
    has_begun = got or any(call.sent for call in calls)
    if len(got) < len(expected) and how == "end" and has_begun and may_reset:
        raise Violation(f"{what}: {len(got)} of {len(expected)} bytes came, then a clean end")


def judge_service(calls, expected, what, is_strict, is_tcp, most=1):
    """What the service has seen of it: TCP tells a stream that was cut from one that ended."""
    if len(calls) > most or (is_strict and len(calls) != most):
        raise Violation(f"{what}: the service was called {len(calls)} times")
    for call in calls:
        if not expected.startswith(call.received):
            raise Violation(f"{what}: the service got wrong bytes, {len(call.received)} of them")
        if is_strict and (call.received != expected or call.ended == "reset"):
            raise Violation(f"{what}: the service got {len(call.received)} bytes of {len(expected)}, then {call.ended}")
        if is_tcp and call.received and len(call.received) < len(expected) and call.ended == "end":
            raise Violation(f"{what}: the service got {len(call.received)} of {len(expected)} bytes, then a clean end")


def judge_answer(got, how, expected, what, is_strict):
    """An answer of the router's own, of whole lines: it, a refusal, a part of either, or nothing."""
    if how == "late":
        raise Violation(f"{what}: no answer and no end, after {got[-40:]!r}")
    if got == expected:
        return
    if is_strict or not (expected.startswith(got) or got.startswith(b"-")):
        raise Violation(f"{what}: the answer is {got[-200:]!r}, then {how}")


def judge_list(got, how, expected, what, is_strict, may_lack):
    """may_lack: some entries could not be looked at, and a list may be without such."""
    if may_lack and got.endswith(b"\r\n\r\n") or got == b"\r\n":
        left = iter(expected.split(b"\r\n"))
        if all(line in left for line in got[:-2].split(b"\r\n")[:-1]):
            return
    judge_answer(got, how, expected, what, is_strict)
