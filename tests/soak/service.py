#!/usr/bin/python3
"""A service of the soak: a process of its own, so that it can hang and die.

    service.py INSTANCE KIND PLACE [KNOCK_PORT]

KIND and PLACE: "unix PATH", "tcp PORT", "once PATH" and "lasting PATH" (receivers of clients that are handed over,
one or many a connection), "knock PATH PORT" (a receiver that wants a knock). It says "ready" when it listens, and ends
with its standard input. To each client it says its INSTANCE in a line; the client answers with a line

    ID MODE UP AT DOWN AT CHUNK PAUSE_MS

(UP bytes of noise from an offset on will come, DOWN from another are wanted), and then:

    both    DOWN at once, beside UP; when UP has ended, a line "ID BYTES" and the end
    after   the same, but DOWN follows the end of UP
    first   DOWN and the end; UP goes on
    echo    back what comes
    reset   DOWN, then a reset
    leave   DOWN, then close, whatever comes

What it thinks of UP it says on its standard output, in a line of JSON for each client.
"""

import json
import os
import pathlib
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import flow  # noqa: E402
from harness.services import bind_tcp, bind_unix  # noqa: E402

threading.stack_size(256 * 1024)


def say(**words):
    os.write(1, json.dumps(words).encode() + b"\n")  # less than PIPE_BUF: in one piece


class Visit:
    """One client."""

    def __init__(self, sock, instance):
        self.sock, self.instance = sock, instance
        self.rhythm = flow.Rhythm()
        self.up = flow.Expected(0)
        self.id = None
        self.ended = "eof"
        self.wrong = None

    def run(self):
        try:
            flow.send_all(self.sock, b"instance %s\n" % self.instance.encode(), self.rhythm)
            self._read_header(flow.receive_line(self.sock, self.rhythm))
            getattr(self, self.mode)()
        except flow.Cut as cut:
            self.ended = "reset" if cut.is_reset else "short"
        except flow.WrongBytes as error:
            self.wrong = str(error)
        except flow.Hang:
            self.ended = "hang"
        finally:
            self.sock.close()
        if self.id:
            say(id=self.id, up=self.up.done, ended=self.ended, wrong=self.wrong)

    def _read_header(self, line):
        try:
            name, self.mode, *numbers = line.decode("ascii").split()
            up, up_at, down, down_at, chunk, pause_ms = map(int, numbers)
        except ValueError:
            say(id="", up=0, ended="", wrong=f"instead of the first line came {line[:200]!r}")
            raise flow.Cut("no header", False) from None
        self.id = name
        self.up = flow.Expected(up_at, up)
        self.down = flow.Outgoing(down_at, down)
        self.rhythm = flow.Rhythm(chunk, pause_ms / 1000)

    def _take_up(self, chunk):
        self.up.feed(chunk)

    def _tell(self):
        flow.send_all(self.sock, f"{self.id} {self.up.done}\n".encode(), self.rhythm)
        flow.end_sending(self.sock)

    def both(self):
        flow.duplex(self.sock, self.down, self._take_up, self.rhythm, ends=False)
        self._tell()

    def after(self):
        flow.duplex(self.sock, flow.Outgoing(0, 0), self._take_up, self.rhythm, ends=False)
        flow.duplex(self.sock, self.down, self._take_up, self.rhythm, ends=False)
        self._tell()

    def first(self):
        flow.duplex(self.sock, self.down, self._take_up, self.rhythm)

    def echo(self):
        while True:
            flow.wait_for(self.sock, flow.select.POLLIN)
            chunk = flow.receive(self.sock, 1 << 16)
            if chunk == b"":
                flow.end_sending(self.sock)
                return
            if chunk:
                self.up.feed(chunk)
                if not flow.send_all(self.sock, chunk, self.rhythm):
                    raise flow.Cut("nobody reads the echo", True)

    def reset(self):
        self._give()
        flow.reset(self.sock)

    def leave(self):
        self._give()

    def _give(self):
        while self.down.rest:
            self.rhythm.wait()
            flow.wait_for(self.sock, flow.select.POLLOUT)
            count = flow.send(self.sock, self.down.piece(self.rhythm.chunk))
            if count is None:
                return
            self.down.done += count


def begin(sock, instance):
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # UNIX
    threading.Thread(target=Visit(sock, instance).run, daemon=True).start()


def receive_clients(router, instance, is_lasting):
    """Over one connection of a router."""
    with router:
        try:
            if is_lasting:
                router.send(b"+")
        except OSError:
            pass  # a client may be there all the same
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(router, 64, 64)
            except OSError:
                return
            if not data:
                return
            if flags & socket.MSG_CTRUNC or data != b"*" * len(fds) or (not is_lasting and len(fds) != 1):
                say(id="", up=0, ended="", wrong=f"a handing over brought {data!r} and {len(fds)} descriptors")
            for fd in fds:
                begin(socket.socket(fileno=fd), instance)
            if not is_lasting:
                return


def accept(listener, handle, *how):
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            time.sleep(0.01)
            continue
        handle(sock, *how)


def accept_in_threads(listener, handle, *how):
    accept(listener, lambda sock: threading.Thread(target=handle, args=(sock, *how), daemon=True).start())


def await_end():
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(instance, kind, place, knock_port="0"):
    if kind == "tcp":
        listener = bind_tcp(port=int(place))
    else:
        listener = bind_unix(place)
    if kind == "knock":
        knocks = bind_tcp(port=int(knock_port))
        threading.Thread(target=accept, args=(knocks, socket.socket.close), daemon=True).start()
    threading.Thread(target=await_end, daemon=True).start()
    say(ready=listener.getsockname()[1] if kind == "tcp" else 0)
    if kind in ("unix", "tcp"):
        accept(listener, begin, instance)
    else:
        accept_in_threads(listener, receive_clients, instance, kind == "lasting")


main(*sys.argv[1:])
