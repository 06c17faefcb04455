"""The clients of the soak: each kind is a function that does one session, and says how it ended if all was well.

What was not as it should be is raised: WrongBytes, Hang and Wrong are failures whatever happened meanwhile; Refused
(no service) and Cut (a service, and an end before the end) are excused if something was done to who was on the way.
"""

import math
import os
import socket
import subprocess
import threading
import time

import flow
from flow import Cut, Hang, WrongBytes
from harness.router import KAISO, clean_environment
from harness.stream import format_address
from harness.services import connect_unix

REQUEST_TIMEOUT, IDLE_TIMEOUT = 12.0, 20.0  # of the routers; the soak sets them
LATE_SECONDS = 10.0  # by which a time limit may come late on a busy machine
REPORT_SECONDS = 30.0
MIB = 1 << 20
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))
HTTP = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"


class Wrong(Exception):
    """Something that may never be."""


class Refused(Exception):
    """The connection ended before a service was there. code: what the router said, if it was asked."""

    def __init__(self, text, code=None):
        super().__init__(text)
        self.code = code


class Way:
    """To a router, or through an exposer to one service of it. routers: all that a session passes."""

    def __init__(self, name, address, routers, prefix="", service=None):
        self.name, self.address, self.routers, self.prefix, self.service = name, address, routers, prefix, service
        self.is_unix = address.startswith("unix:")


class Call:
    """One session, from the client's side."""

    def __init__(self, soak, rng, name):
        self.soak, self.world, self.rng, self.id = soak, soak.world, rng, name
        self.began = time.monotonic()
        self.way = self.service = self.instance = self.sock = None
        self.name = ""
        self.process = None
        self.rhythm = flow.Rhythm(gate=self.world.gate)
        self.must_be_clean = True

    # ---- choices

    def size(self, most):
        """Of any order of magnitude."""
        return 0 if self.rng.random() < 0.04 else int(math.exp(self.rng.uniform(0, math.log(most))))

    def pace(self, count):
        """(chunk, pause in ms) that bring so many bytes over within seconds."""
        chunk = self.rng.choice((1000, 4096, 1 << 14, 1 << 16, 1 << 18))
        pause = self.rng.choice((0, 0, 1, 5, 20))
        return chunk, pause if count / chunk * pause < 6000 else 0

    def take_rhythm(self, count):
        chunk, pause_ms = self.pace(count)
        self.rhythm = flow.Rhythm(chunk, pause_ms / 1000, self.world.gate)

    def choose(self, ways=None, services=None):
        self.way = self.rng.choice(ways or self.soak.ways)
        self.service = self.way.service or self.rng.choice(services or self.soak.fleet.offered)
        if services and self.service not in services:
            self.choose([way for way in self.soak.ways if way.service is None or way.service in services], services)
        return self

    @property
    def path(self):
        """What the service is called on this way."""
        names = [self.service.name]
        if not self.way.prefix:
            names.append(f"deep/{self.service.name}")
        if self.service.name == "tcp-steady" and not self.way.prefix:
            names.append("named")
        return self.way.prefix + self.rng.choice(names)

    # ---- steps

    def connect(self, receive_buffer=None):
        try:
            return self._connect(receive_buffer)
        except OSError as error:
            raise Refused(f"connect: {error}") from None

    def _connect(self, receive_buffer):
        if self.way.is_unix:
            self.sock = connect_unix(self.way.address[len("unix:"):])
        else:
            host, _, port = self.way.address.rpartition(":")
            self.sock = socket.socket()
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.settimeout(flow.DEADLINE)
            self.sock.connect((host, int(port)))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.name = format_address(self.sock.getsockname())
        return self

    def send(self, data):
        """False when nobody takes it any more; reading will tell."""
        self.world.count("sent", len(data))
        return flow.send_all(self.sock, data, self.rhythm)

    def drip(self, data):
        for index in range(len(data)):
            self.send(data[index:index + 1])
            time.sleep(self.rng.choice((0, 0, 0.001, 0.01, 0.03)))

    def header(self, mode, up, down):
        up_at, down_at = self.rng.randrange(MIB), self.rng.randrange(MIB)
        self.outgoing = flow.Outgoing(up_at, up)
        self.expected = flow.Expected(down_at, down)
        chunk, pause_ms = (1 << 18, 0) if mode == "echo" else self.pace(max(up, down))
        return f"{self.id} {mode} {up} {up_at} {down} {down_at} {chunk} {pause_ms}\n".encode()

    def ask(self, mode, up=0, down=0, dripping=False, **how):
        """Connects, and asks for the service; nothing is read yet. Returns whether a verdict will come."""
        if self.sock is None:
            self.connect(**how)
        header = self.header(mode, up, down)
        wants_verdict = self.way.service is None and self.rng.random() < 0.3
        line = b"" if self.way.service else ((".kaiso/open " if wants_verdict else "") + self.path).encode() + \
            self.rng.choice((b"\n", b"\r\n"))
        form = self.rng.randrange(3)
        if dripping:
            self.drip(line + header)
        elif form == 0:
            self.send(line)
            self.send(header)
        elif form == 1 or self.outgoing.rest == 0 or mode == "echo":
            self.send(line + header)
        else:
            piece = bytes(self.outgoing.piece(self.rng.randrange(1, 5000)))
            self.outgoing.done += len(piece)
            self.send(line + header + piece)
        return wants_verdict

    def greet(self, wants_verdict):
        """The service's first words, behind the router's."""
        try:
            if wants_verdict:
                self.take_verdict(flow.receive_line(self.sock, self.rhythm))
            line = flow.receive_line(self.sock, self.rhythm)
        except Cut as cut:
            raise Refused(f"{cut}") from None
        word, _, self.instance = line.decode("latin-1").partition(" ")
        if word != "instance" or self.instance.rpartition(".")[0] not in self.service.members:
            raise WrongBytes(f"the service {self.service.name} was asked for, and {line[:200]!r} came")
        return self

    def take_verdict(self, line):
        if line.startswith(b"-"):
            code = line[1:].split()[0].decode()
            self.expect_nothing()
            raise Refused(line.decode().strip(), code)
        if line != b"+\r":
            raise WrongBytes(f"a verdict: {line!r}")

    def open(self, mode, up=0, down=0, **how):
        return self.greet(self.ask(mode, up, down, **how))

    def take_down(self, chunk):
        """What the service sends, and behind it what it says of what it got."""
        self.world.count("received", len(chunk))
        rest = self.expected.count - self.expected.done
        self.expected.feed(chunk[:rest])
        self.tail += chunk[rest:]
        if not self.last_words.startswith(self.tail):
            raise WrongBytes(f"behind the stream came {bytes(self.tail[:80])!r}")

    def transfer(self, has_last_words=True):
        """All of it, both ways, to the end."""
        self.tail = bytearray()
        self.last_words = f"{self.id} {self.outgoing.count}\n".encode() if has_last_words else b""
        begun = self.outgoing.done
        is_taken = flow.duplex(self.sock, self.outgoing, self.take_down, self.rhythm)
        self.world.count("sent", self.outgoing.done - begun)
        if not self.expected.is_whole or self.tail != self.last_words:
            # A send that failed has taken the socket's error with it: the reset is not seen once more by reading.
            raise Cut(f"{'a clean end' if is_taken else 'a reset'} after {self.expected.done} of "
                      f"{self.expected.count} bytes and {bytes(self.tail)!r}", not is_taken)
        if not is_taken:
            raise Cut(f"{self.outgoing.done} of {self.outgoing.count} bytes were taken", True)
        self.world.compared(self.expected.done)
        return "done"

    def exchange(self, count):
        """There and back again, through a service that echoes."""
        piece = bytes(self.outgoing.piece(count))
        self.outgoing.done += len(piece)
        begin, gate_was_open = time.monotonic(), self.world.gate.is_set()
        self.send(piece)
        got = flow.receive_exactly(self.sock, len(piece), self.rhythm)
        self.world.count("received", len(got))
        if gate_was_open and self.world.gate.is_set() and self.service.is_steady and not self.rhythm.pause:
            self.world.stalled(time.monotonic() - begin, f"{len(piece)} bytes and back by {self.way.name}")
        if got != piece:
            raise WrongBytes(f"the echo of {piece[:32].hex()} was {got[:32].hex()}")

    def expect_end(self):
        """Cleanly, and not a byte before it."""
        while True:
            flow.wait_for(self.sock, flow.select.POLLIN)
            chunk = flow.receive(self.sock, 4096)
            if chunk:
                raise WrongBytes(f"{chunk[:80]!r} came where the end was due")
            if chunk is not None:
                return

    def expect_nothing(self):
        """The end, one way or another, and not a byte before it."""
        try:
            self.expect_end()
        except Cut:
            pass

    def report(self):
        """What the service says of this session, once it is over there. None where it was killed."""
        report = self.soak.fleet.reports.wait(self.id, 0)
        end = time.monotonic() + REPORT_SECONDS
        while report is None:
            if self.instance in self.service.ended:
                return None
            if time.monotonic() > end:
                raise Hang(f"the service did not learn that the session is over within {REPORT_SECONDS:g} s")
            report = self.soak.fleet.reports.wait(self.id, 0.2)
        return report

    def close(self):
        if self.sock is not None:
            self.sock.close()
        if self.process is not None:
            try:
                self.process.wait(REPORT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Hang("kaiso connect did not end") from None


# ---- the kinds -------------------------------------------------------------------------------------------------


def up(call):
    size = call.size(16 * MIB)
    call.take_rhythm(size)
    return call.choose().open("both", up=size).transfer()


def down(call):
    size = call.size(16 * MIB)
    call.take_rhythm(size)
    return call.choose().open("both", down=size, receive_buffer=call.rng.choice((None, None, 4096))).transfer()


def both(call):
    sizes = call.size(16 * MIB), call.size(16 * MIB)
    call.take_rhythm(max(sizes))
    return call.choose().open("both", *sizes).transfer()


def client_ends_first(call):
    """The answer comes when the client has long ended its direction."""
    sizes = call.size(MIB), call.size(8 * MIB)
    call.take_rhythm(max(sizes))
    return call.choose().open("after", *sizes).transfer()


def service_ends_first(call):
    """The service ends its direction, and must still get all of ours."""
    sizes = call.size(4 * MIB), call.size(MIB)
    call.take_rhythm(max(sizes))
    call.choose().open("first", *sizes).transfer(has_last_words=False)
    report = call.report()
    if report is not None and (report["ended"], report["up"]) != ("eof", call.outgoing.count):
        if call.instance not in call.service.ended:
            raise Wrong(f"the service got {report['up']} of {call.outgoing.count} bytes, then {report['ended']}")
    return "done"


def ping_pong(call, dripping=False):
    rounds = call.rng.randrange(1, 40)
    sizes = [call.rng.choice((1, 100, 1000, 16 << 10, 60_000)) for _ in range(rounds)]
    call.choose().open("echo", up=sum(sizes), dripping=dripping)
    for size in sizes:
        call.exchange(size)
        time.sleep(call.rng.choice((0, 0, 0, 0.01, 0.1)))
    flow.end_sending(call.sock)
    call.expect_end()
    call.world.compared(sum(sizes))
    return "done"


def drip(call):
    """The line, byte by byte."""
    return ping_pong(call, dripping=True)


def lasting(call):
    """A session that goes on through many upgrades, until the soak is over or its time has come."""
    end = time.monotonic() + call.rng.uniform(20, 120)
    upgrades = call.world.counts["upgrades"]
    call.choose().open("echo", up=1 << 40)
    total = 0
    while time.monotonic() < end and not call.world.is_over.is_set():
        size = call.rng.choice((1, 100, 1000, 16 << 10, 60_000))
        call.exchange(size)
        total += size
        call.world.is_over.wait(call.rng.choice((0.01, 0.1, 0.5, 2)))
    flow.end_sending(call.sock)
    call.expect_end()
    call.world.compared(total)
    with call.world.lock:
        survived = call.world.counts["upgrades"] - upgrades
        call.world.counts["most upgrades survived"] = max(survived, call.world.counts["most upgrades survived"])
    return "done"


# ---- who leaves early


def leave(call, how):
    """At some stage; the service, if there was one, has to learn of it."""
    stage = call.rng.choice(("connected", "half a line", "line", "header", "within echo", "within up", "within down",
                             "behind its end"))
    if stage in ("half a line", "line"):
        _routed(call)
    else:
        call.choose()
    if stage in ("connected", "half a line", "line"):
        call.connect()
    if stage in ("half a line", "line"):
        call.send(call.path.encode()[:3] if stage == "half a line" else call.path.encode() + b"\n")
    elif stage == "header":
        call.ask("both", call.size(MIB), call.size(MIB))
    elif stage == "within echo":
        call.open("echo", up=MIB)
        call.exchange(1000)
        call.send(bytes(call.outgoing.piece(call.rng.randrange(1, 30_000))))
    elif stage == "within up":
        call.open("both", up=16 * MIB, down=call.size(MIB))
        call.send(bytes(call.outgoing.piece(call.size(MIB))))
    elif stage != "connected":
        call.open("both", up=call.size(100_000), down=16 * MIB)
        if stage == "behind its end":
            call.send(bytes(call.outgoing.piece(call.outgoing.rest)))
            flow.end_sending(call.sock)
        call.expected.feed(flow.receive_exactly(call.sock, call.rng.randrange(1, 100_000), call.rhythm))
    how(call.sock)
    if stage == "within echo":
        report = call.report()
        is_tcp = not call.way.is_unix and call.service.kind != "unix"
        if how is flow.reset and is_tcp and report and report["ended"] != "reset":
            if call.instance not in call.service.ended:
                raise Wrong(f"the client was reset, and the service saw: {report['ended']}")
    return f"left: {stage}"


def resets(call):
    return leave(call, flow.reset)


def aborts(call):
    return leave(call, socket.socket.close)


def service_resets(call):
    """A TCP service that is reset; the client has to see that, not a clean end."""
    fleet = call.soak.fleet
    services = [service for service in fleet.services if service.kind != "unix"]
    call.choose([way for way in call.soak.ways if not way.is_unix and way.service in (None, *services)], services)
    call.open("reset", down=call.size(MIB))
    try:
        _read_on(call)
    except Cut as cut:
        if cut.is_reset:
            return "was reset"
        raise
    if call.instance not in call.service.ended:
        raise Wrong(f"the service was reset, and the client saw a clean end after {call.expected.done} "
                    f"of {call.expected.count} bytes")
    return "excused: killed"


def service_leaves(call):
    """All that it had said before it went must come; unless it left bytes unread, which is a reset over TCP."""
    call.choose().open("leave", up=call.size(MIB), down=call.size(MIB))
    try:
        call.transfer(has_last_words=False)
    except Cut as cut:
        is_lost = call.way.is_unix and call.service.kind != "unix"  # UNIX clients know of no reset
        if call.outgoing.count == 0 or not (cut.is_reset or is_lost):
            raise
        return "was reset"
    return "done"


def _read_on(call):
    call.tail, call.last_words = bytearray(), b""
    flow.duplex(call.sock, flow.Outgoing(0, 0), call.take_down, call.rhythm, ends=False)


def stalls(call):
    """Reads nothing for a while, so that all that lies between is full; then everything."""
    sizes = call.size(8 * MIB), 8 * MIB
    call.choose().open("both", *sizes, receive_buffer=call.rng.choice((None, 4096)))
    call.world.is_over.wait(call.rng.uniform(0.5, 6))
    return call.transfer()


# ---- who asks the router itself


def _read_list(call):
    """Exactly one list, which is looked at."""
    got = bytearray()
    while not (got == b"\r\n" or got.endswith(b"\r\n\r\n")):
        call.rhythm.wait()
        flow.wait_for(call.sock, flow.select.POLLIN)
        try:
            ahead = call.sock.recv(min(call.rhythm.chunk, 1 << 16), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Refused(f"{error.strerror} inside a list") from None
        if not ahead:
            raise Refused(f"the end inside a list, after {len(got)} bytes")
        tail = bytes(got[-3:])
        at = (tail + ahead).find(b"\r\n\r\n")
        if not got and ahead.startswith(b"\r\n"):
            got += call.sock.recv(2)
        else:
            got += call.sock.recv(at + 4 - len(tail) if at >= 0 else len(ahead))
    call.world.count("received", len(got))
    return bytes(got)


def _check_list(call, got, is_detailed=False):
    lines = got.decode().split("\r\n")[:-2]
    fleet = call.soak.fleet
    if is_detailed:
        kinds = dict(line.split("\t")[:2] for line in lines)
        lines = list(kinds)
        for name, kind in (("unix-steady", "unix"), ("tcp-steady", "tcp"), ("lasting-steady", "passfd"),
                           ("loop", "kaiso")):
            if kinds.get(name, kind) != kind:
                raise Wrong(f"{name} is listed as {kinds[name]}")
    if lines != sorted(lines, key=os.fsencode):
        raise Wrong("a list is not in order")
    names = [name for name in lines if not fleet.may_be_listed(name)]
    expected = [[name for name in whole if name != "bad" or not is_detailed] for whole in fleet.lists]
    if names not in expected:
        best = min((set(names) ^ set(whole) for whole in expected), key=len)
        raise Wrong(f"a list of {len(lines)} is not right: {len(best)} names differ, as {sorted(best)[:5]}")
    call.world.count("lists")


def _routed(call):
    """Any way where a line is to be said."""
    call.choose([way for way in call.soak.ways if way.service is None and not way.prefix])


def lists(call, **how):
    """Some lists one after the other, or asked for at once, and perhaps a service behind them."""
    _routed(call)
    call.connect(**how)
    count = call.rng.randrange(1, 4)
    words = [call.rng.choice((b"\n", b"\r\n", b".kaiso/list\n")) for _ in range(count)]
    if call.rng.random() < 0.5:
        call.send(b"".join(words))
        words = [(word, True) for word in words]
    else:
        words = [(word, False) for word in words]
    for word, is_said in words:
        if not is_said:
            call.send(word)
        _check_list(call, _read_list(call), word.startswith(b"."))
    if call.rng.random() < 0.3:
        size = call.size(MIB)
        call.take_rhythm(size)
        call.open("both", size, size).transfer()
        return "done"
    flow.end_sending(call.sock)
    call.expect_end()
    return "done"


def slow_lists(call):
    call.rhythm = flow.Rhythm(call.rng.choice((2000, 5000)), 0.01, call.world.gate)
    return lists(call, receive_buffer=4096)


def unread_lists(call):
    """Asks for many and reads none, for a while."""
    _routed(call)
    call.connect(receive_buffer=4096)
    count = call.rng.randrange(1, 20)
    call.send(b"\n" * count)
    call.world.is_over.wait(call.rng.uniform(0, 4))
    end = call.rng.randrange(3)
    if end == 0:
        flow.reset(call.sock)
        return "left: unread"
    if end == 1:
        return "left: unread"
    for _ in range(count):
        _check_list(call, _read_list(call))
    return "done"


def words(call):
    """What tools ask, right and wrong."""
    _routed(call)
    call.connect()
    for _ in range(call.rng.randrange(4)):
        if call.rng.random() < 0.5:
            call.send(b".kaiso/version\r\n")
            line = _line(call)
            if not line.startswith(b"kaiso "):
                raise WrongBytes(f"the version: {line!r}")
        else:
            call.send(call.rng.choice((b".kaiso/list deep/\n", b"deep/\n")))
            listed = _read_list(call).split(b"\r\n")
            if not all(line.startswith(b"deep/") for line in listed if line):
                raise WrongBytes(f"the list of deep/: {listed[:3]}")
    name, codes = call.rng.choice((("nothing", ["not-found"]), ("nowhere", ["not-found"]), ("bad", ["invalid"]),
                                   ("dead", ["unavailable"]), ("refused", ["unavailable"]), ("../x", ["not-found"]),
                                   ("loop", ["loop", None]), (".hidden", ["not-found"])))
    call.send(f".kaiso/open {name}\n".encode())
    try:
        call.take_verdict(_line(call))
    except Refused as refused:
        if refused.code in codes:
            return f"refused: {refused.code}"
        raise
    if None not in codes:
        raise Wrong(f"{name} was opened")
    call.expect_nothing()
    return "refused: loop"


def _line(call):
    try:
        return flow.receive_line(call.sock, call.rhythm)
    except Cut as cut:
        raise Refused(f"{cut}") from None


def refused(call):
    """Names that lead nowhere, and garbage: silence, and the end."""
    rng = call.rng
    _routed(call)
    call.connect()
    call.send(rng.choice((
        b"nothing\n", b"nowhere\n", b"bad\n", b"dead\n", b"refused\n", b"loop\n", b"deep\n", b"/unix\n",
        b"../left/unix\n", b".passing\n", b"deep//unix\n", b"unix-steady \n", b" unix-steady\n", b".kaiso/nonsense\n",
        b"\x01" + rng.randbytes(rng.randrange(1, 2000)).replace(b"\n", b"") + b"\n",
        b"\x01" + rng.randbytes(rng.randrange(1, 200_000)),
        b"x" * rng.randrange(4097, 300_000), b"\0" * 5000, TLS_HELLO * 30, HTTP, b"unix-steady\0\n",
    )))
    flow.end_sending(call.sock)
    call.expect_nothing()
    return "refused"


def half_line(call):
    """An unfinished line asks for nothing."""
    _routed(call)
    call.connect()
    call.send(call.path.encode()[:call.rng.randrange(1, 12)])
    flow.end_sending(call.sock)
    call.expect_nothing()
    return "closed"


def silent(call):
    """Says nothing, or nothing whole, until the router has had enough: not sooner, and not much later."""
    _routed(call)
    begin = time.monotonic()
    call.connect()
    call.send(call.rng.choice((b"", b"x", b"unix-stead")))
    call.expect_nothing()
    _judge_time(time.monotonic() - begin, REQUEST_TIMEOUT, Refused)
    return "timed out"


def idle(call):
    """A session in which nothing moves any more; the same."""
    services = [service for service in call.soak.fleet.services if not service.is_handed_over]
    call.choose(services=services).open("echo", up=1000)
    begin = time.monotonic()
    call.exchange(1000)
    call.expect_nothing()
    _judge_time(time.monotonic() - begin, IDLE_TIMEOUT, lambda text: Cut(text, False))
    return "timed out"


def _judge_time(seconds, limit, too_early):
    if seconds < limit - 0.5:
        raise too_early(f"the router closed after {seconds:.1f} s")
    if seconds > limit + LATE_SECONDS:
        raise Wrong(f"the router closed after {seconds:.1f} s only")


# ---- by the tools


def _tool(call, *options):
    """kaiso connect, whose standard input and output is a socket of ours."""
    call.choose([way for way in call.soak.ways if way.service is None])
    call.sock, other = socket.socketpair()
    with other:
        call.process = subprocess.Popen([KAISO, "connect", *options, call.way.address, call.path], stdin=other,
                                        stdout=other, stderr=subprocess.PIPE, env=clean_environment())


def _tool_ends(call):
    """Its exit status, and what it complained of."""
    errors = call.process.stderr.read().decode(errors="replace").strip()
    call.process.stderr.close()
    return call.process.wait(REPORT_SECONDS), errors


def connect_tool(call):
    _tool(call)
    sizes = call.size(4 * MIB), call.size(4 * MIB)
    call.take_rhythm(max(sizes))
    try:
        call.send(call.header(call.rng.choice(("both", "after")), *sizes))
        call.greet(False)
        call.transfer()
    except (Cut, Refused) as error:
        status, errors = _tool_ends(call)
        raise type(error)(f"{error}; kaiso connect: {status}, {errors}", *([True] if isinstance(error, Cut) else [])) \
            from None
    status, errors = _tool_ends(call)
    if status != 0 or errors:
        raise Wrong(f"kaiso connect ended with {status}: {errors}")
    return "done"


def fdpass_tool(call):
    """The connection itself comes from kaiso connect."""
    _tool(call, "--fdpass")
    with call.sock as ours:
        flow.wait_for(ours, flow.select.POLLIN)
        data, fds, _, _ = socket.recv_fds(ours, 16, 1)
    status, errors = _tool_ends(call)
    call.sock = None
    if not fds:
        raise Refused(f"kaiso connect --fdpass: {status}, {errors}")
    if status != 0 or len(data) != 1:
        raise Wrong(f"kaiso connect --fdpass ended with {status}: {errors}, and sent {data!r}")
    call.sock = socket.socket(fileno=fds[0])
    call.sock.setblocking(False)
    call.name = format_address(call.sock.getsockname())
    sizes = call.size(4 * MIB), call.size(4 * MIB)
    call.send(call.header("both", *sizes))
    return call.greet(False).transfer()


# Kind, how often of 100 or so.
KINDS = (
    ("up", up, 8), ("down", down, 8), ("both", both, 8), ("client ends first", client_ends_first, 6),
    ("service ends first", service_ends_first, 6), ("ping-pong", ping_pong, 12), ("drip", drip, 5),
    ("resets", resets, 10), ("aborts", aborts, 10), ("service resets", service_resets, 4),
    ("service leaves", service_leaves, 4), ("stalls", stalls, 3), ("lists", lists, 5), ("slow lists", slow_lists, 3),
    ("unread lists", unread_lists, 3), ("words", words, 5), ("refused, garbage", refused, 8),
    ("half a line", half_line, 2), ("silent", silent, 1), ("idle", idle, 1),
    ("kaiso connect", connect_tool, 2), ("connect --fdpass", fdpass_tool, 2),
)


def keep_kinds(names):
    """Only these, to look for one thing."""
    global KINDS
    known = {kind[0]: kind for kind in KINDS}
    KINDS = tuple(known[name] for name in names)


class Slot:
    """One client after the other, each of a kind that chance picks; or all of one kind."""

    def __init__(self, soak, name, kind=None):
        self.soak, self.world, self.name, self.kind = soak, soak.world, name, kind
        self.rng = soak.world.chance(name)
        self.count = 0
        self.now = None  # (kind, Call)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.world.is_over.is_set():
            name, function, _ = self.kind or self.rng.choices(KINDS, [weight for *_, weight in KINDS])[0]
            self.count += 1
            call = Call(self.soak, self.rng, f"{self.name.replace(' ', '-')}.{self.count}")
            self.now = (name, call)
            try:
                outcome = self._judge(name, function, call)
            except Exception as error:  # of the soak itself: to be seen, not to be hidden in a thread
                self.world.fail(f"{name}: {type(error).__name__}: {error}")
                outcome = "FAILED"
            self.now = None
            with self.world.lock:
                self.world.sessions[name, outcome] += 1
                if call.way:
                    self.world.sessions["by " + call.way.name, ""] += 1
                if call.instance and call.service.is_handed_over:
                    self.world.sessions["handed over", ""] += 1
            self.world.gate.wait()
            self.world.is_over.wait(self.rng.choice((0, 0, 0.01, 0.1, 0.5)))

    def _judge(self, name, function, call):
        try:
            try:
                return function(call)
            finally:
                call.close()
        except (Refused, Cut) as error:
            outcome = self._excuse(call, error)
            if outcome is None:
                self._fail(name, call, error)
        except (Wrong, WrongBytes, Hang, OSError) as error:
            self._fail(name, call, error)
            outcome = None
        return outcome or "FAILED"

    def _excuse(self, call, error):
        """What was done, for which this may have happened; None: nothing."""
        end = time.monotonic()
        if call.service is not None and call.service.is_excused(call.began, end, call.instance):
            return "excused: service killed"
        if isinstance(error, Cut) or call.instance:
            return None
        if any(router.short.overlap(call.began, end) for router in call.way.routers):
            return "excused: descriptors short"
        if self.soak.fleet.gap.overlap(call.began, end):
            return "excused: no directory"
        return None

    def _fail(self, name, call, error):
        service = call.service.name if call.service else "-"
        way = call.way.name if call.way else "-"
        time.sleep(0.2)  # for the router's line
        lines = [router.log.about(call.name, call.began) for router in (call.way.routers if call.way else ())]
        self.world.fail(f"{name}, by {way}, service {service} ({call.instance or 'not reached'}), session {call.id}, "
                        f"client {call.name}, after {time.monotonic() - call.began:.1f} s: "
                        f"{type(error).__name__}: {error}"
                        + "".join(f"\n{'':11}{line}" for line in lines if line))
