#!/usr/bin/python3
"""What one client, or many together, may do to a router: a program of its own, for the tests and the benchmarks.

    attacks.py KIND HOST:PORT LINE COUNT [SOURCE]

Goes at it with COUNT connections (from the address SOURCE), says "ready" once all are there, and goes on until its
standard input ends. Then it says how often it did what the kind does.
"""

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys

PIECE = b"x" * 65536
RESET = struct.pack("ii", 1, 0)


class Attacker:
    def __init__(self, place, line, count, source):
        host, _, port = place.rpartition(":")
        self.address, self.line, self.count, self.source = (host, int(port)), line.encode() + b"\r\n", count, source
        self.done = 0
        self.is_ready = False

    def must_end(self):
        """Whether who runs this has had enough; to be asked often."""
        return bool(select.select([0], [], [], 0)[0])

    def connect(self, first=b"", receive_buffer=None):
        sock = socket.socket()
        sock.settimeout(5)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: more ports than bind() alone would find
        if self.source:
            sock.bind((self.source, 0))
        with contextlib.suppress(OSError):  # refused clients are what some of this is about
            sock.connect(self.address)
            if first:
                sock.send(first)
        sock.setblocking(False)
        self.done += 1
        return sock

    def rounds(self, first=b"", receive_buffer=None):
        """Opens all; then gives one connection after the other, for ever."""
        socks = []
        while len(socks) < self.count and not self.must_end():
            socks.append(self.connect(first, receive_buffer))
        self.ready()
        while True:
            for at in range(len(socks)):
                if self.must_end():
                    return
                yield socks, at

    def ready(self):
        if not self.is_ready:
            print("ready", flush=True)
        self.is_ready = True

    def again(self, socks, at, *how):
        socks[at].close()
        socks[at] = self.connect(*how)

    # ---- the kinds

    def slow_lines(self):
        """A byte of a request line now and then, on each."""
        for socks, at in self.rounds(b"a"):
            try:
                self.done += socks[at].send(b"a")
            except BlockingIOError:
                pass
            except OSError:
                self.again(socks, at, b"a")

    def unread_lists(self):
        """Asks for a hundred lists and reads none; then leaves, and comes back."""
        for socks, at in self.rounds(self.line * 100, 4096):
            self.again(socks, at, self.line * 100, 4096)

    def connections(self):
        """Says nothing; leaves, and comes back."""
        for socks, at in self.rounds():
            self.again(socks, at)

    def requests(self):
        """Asks for the service, and again as soon as it is refused."""
        for socks, at in self.rounds(self.line):
            try:
                if socks[at].recv(1 << 16):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            self.again(socks, at, self.line)

    def unread_service(self):
        """Sends all that is taken."""
        for socks, at in self.rounds(self.line):
            try:
                while True:
                    self.done += socks[at].send(PIECE)
            except BlockingIOError:
                pass
            except OSError:
                self.again(socks, at, self.line)

    def resets(self):
        """Comes and is gone by a reset: before its line, behind it, with bytes behind it."""
        firsts = (b"", b"a", self.line, self.line + b"x" * 1000, b"\r\n")
        while not self.must_end():
            sock = self.connect(firsts[self.done % len(firsts)])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            if self.done >= self.count:
                self.ready()


KINDS = {"slow-lines": Attacker.slow_lines, "unread-lists": Attacker.unread_lists, "connections": Attacker.connections,
         "requests": Attacker.requests, "unread-service": Attacker.unread_service, "resets": Attacker.resets}


def serve(path):
    """A service that takes clients as fast as they come, and closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + ".new")
        listener.listen(4096)
        os.rename(path + ".new", path)
        while True:
            listener.accept()[0].close()


class Target:
    """serve(), in a process of its own: what is attacked must not be what others, or the test, run on."""

    def __init__(self, path, prepare=None):
        self.process = subprocess.Popen([sys.executable, __file__, "serve", path], preexec_fn=prepare)
        while not os.path.exists(path):
            assert self.process.poll() is None, "the attacked service did not come up"

    def close(self):
        self.process.kill()
        self.process.wait()


class Attack:
    """The program, running: with Attack(...) as attack. prepare: to be called in it before it begins."""

    def __init__(self, kind, place, line, count, source="", prepare=None):
        words = [sys.executable, __file__, kind, place, line, str(count), source]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=prepare)
        self.count = 0
        self.kind = kind

    def wait_ready(self):
        assert self.process.stdout.readline() == b"ready\n", f"the attack {self.kind} did not get going"
        return self

    def __enter__(self):
        return self.wait_ready()

    def __exit__(self, *_):
        self.process.stdin.close()
        self.count = int(self.process.stdout.read() or 0)
        self.process.stdout.close()
        assert self.process.wait() == 0, f"the attack {self.kind} failed"


def main(kind, place, line="", count=0, source=""):
    import resource  # only here: the tests have set their own
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "serve":
        serve(place)
    attacker = Attacker(place, line, int(count), source)
    KINDS[kind](attacker)
    print(attacker.done, flush=True)
    os._exit(0)  # the kernel closes ten thousand sockets faster


if __name__ == "__main__":
    main(*sys.argv[1:])
