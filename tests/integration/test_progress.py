"""--progress of `kaiso connect` and `kaiso expose`: a meter on a terminal, and nothing that harms where there is none."""

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from harness.process import cpu_seconds
from harness.router import KAISO, clean_environment
from harness.services import connect_unix
from harness.wait import DEADLINE, IS_SANITIZED, wait_until

NUMBER = r" *[\d.]+[KMGTPE]?"
WAY = rf"{NUMBER}{NUMBER}/s"
METER = re.compile(rf"^\d+s  sent{WAY}  received{WAY} *$")
SUMMARY = re.compile(rf"^sent{NUMBER} \({NUMBER}/s\), received{NUMBER} \({NUMBER}/s\) in \d+s *$")
DUMB = {"TERM": "dumb", "NO_COLOR": "1"}


class Terminal:
    """One that nobody types at. shown: all bytes that were written to it, once end() was called or so far."""

    def __init__(self, columns=80):
        self.controller, self.fd = os.openpty()
        self.resize(columns)
        os.set_blocking(self.controller, False)
        self._bytes = b""

    def resize(self, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def shown(self):
        """Without what only a build with a sanitizer says."""
        try:
            while chunk := os.read(self.controller, 65536):
                self._bytes += chunk
        except (BlockingIOError, OSError):
            pass  # nothing more, or EIO: nobody has it open
        return re.sub(r"[^\r\n]*the sandbox is without seccomp[^\n]*\n", "", self._bytes.decode())

    def meters(self):
        """What stood in the status line, one after the other."""
        return [part for part in self.shown().replace("\r\n", "\n").split("\n")[-1].split("\r") if part.strip()]

    def lines(self):
        """Those that are left when all is written: of each what was written over it last."""
        return [visible(line) for line in self.shown().split("\r\n")]

    def wait(self, pattern):
        return wait_until(lambda: re.search(pattern, self.shown()), lambda: f"{pattern} in {self.shown()!r}")

    def close(self):
        for fd in (self.controller, self.fd):
            os.close(fd)


def visible(line):
    """What a terminal shows of a line with carriage returns in it."""
    cells = ""
    for part in line.split("\r"):
        cells = part + cells[len(part):]
    return cells.rstrip()


class Running:
    def __init__(self, *words, terminal=None, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how):
        stderr = terminal.fd if terminal else subprocess.PIPE
        how.setdefault("env", clean_environment(**DUMB))
        self.process = subprocess.Popen([KAISO, *words], stdin=stdin, stdout=stdout, stderr=stderr, bufsize=0,
                                        start_new_session=True, **how)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def terminal(router):
    return router.keep(Terminal())


@pytest.fixture
def connect(router, terminal):
    """One to the service echo that has a terminal for its standard error, and pipes."""
    router.echo("echo")
    return lambda *words, **how: router.keep(
        Running("connect", *words, router.address, "echo", **{"terminal": terminal, **how}))


# ---- kaiso connect

def test_meter(connect, terminal):
    """It grows while bytes go, and a last line stays; what goes through is not touched."""
    process = connect("--progress").process
    process.stdin.write(b"x" * 5000)
    terminal.wait(r"sent 4\.9K +[\d.]+K?/s  received 4\.9K")
    assert all(METER.match(meter) for meter in terminal.meters()), terminal.meters()
    process.stdin.close()
    assert process.stdout.read() == b"x" * 5000
    assert process.wait(DEADLINE) == 0
    *above, last, end = terminal.lines()
    assert above == [] and end == "" and SUMMARY.match(last) and "sent 4.9K" in last and "received 4.9K" in last


def test_rates_fall_to_nothing(connect, terminal):
    process = connect("--progress").process
    process.stdin.write(b"x" * 5000)
    terminal.wait(r"sent 4\.9K +0/s  received 4\.9K +0/s")


def test_short_and_long_terminals(connect, terminal):
    """The line never reaches the terminal's last column, and follows its size."""
    terminal.resize(20)
    process = connect("--progress").process
    process.stdin.write(b"x" * 5000)
    terminal.wait(r"s  sent 4\.9K\r")
    assert all(len(meter) < 20 for meter in terminal.meters())
    terminal.resize(40)
    terminal.wait(r"s  sent 4\.9K  received 4\.9K *\r")
    terminal.resize(400)
    terminal.wait(r"/s  received 4\.9K +[\d.]+K?/s")


def test_without_a_terminal(connect):
    """One line when it is over, which names the command."""
    process = connect("--progress", terminal=None).process
    assert process.communicate(b"x" * 5000, DEADLINE)[0] == b"x" * 5000
    process = connect("--progress", terminal=None).process
    _, told = process.communicate(b"x" * 5000, DEADLINE)
    assert process.returncode == 0
    assert re.fullmatch(rb"kaiso connect: sent 4\.9K \(.*/s\), received 4\.9K \(.*/s\) in \d+s\n", told), told


def test_output_to_the_same_terminal(connect, terminal):
    """The meter does not write between its lines; the last line comes behind them."""
    process = connect("--progress", stdout=terminal.fd).process
    process.stdin.write(b"hello\n")
    terminal.wait("hello")
    time.sleep(0.4)  # a meter would have been drawn
    assert terminal.shown() == "hello\r\n"
    process.stdin.close()
    assert process.wait(DEADLINE) == 0
    first, last, end = terminal.lines()
    assert (first, end) == ("hello", "") and SUMMARY.match(last)


def test_nothing_without_the_option(connect, terminal):
    """Not even a thread more."""
    process = connect().process
    process.stdin.write(b"x")
    assert process.stdout.read(1) == b"x"
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 2 or IS_SANITIZED
    process.stdin.close()
    assert process.wait(DEADLINE) == 0
    assert terminal.shown() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(connect, terminal, number):
    """They end it as ever, behind the last line."""
    process = connect("--progress").process
    process.stdin.write(b"x" * 5000)
    terminal.wait("received 4")
    process.send_signal(number)
    assert process.wait(DEADLINE) == -number
    *above, last, end = terminal.lines()
    assert above == [] and end == "" and SUMMARY.match(last)


def test_ignored_signals_stay_ignored(connect, terminal):
    """As below nohup(1)."""
    process = connect("--progress", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)).process
    terminal.wait("sent")
    process.send_signal(signal.SIGHUP)
    process.stdin.write(b"x")
    assert process.stdout.read(1) == b"x"
    process.stdin.close()
    assert process.wait(DEADLINE) == 0


def test_reader_that_leaves(connect, terminal):
    """SIGPIPE ends it as without a meter."""
    process = connect("--progress").process
    terminal.wait("sent")
    process.stdout.close()
    process.stdin.write(b"x" * 5000)
    assert process.wait(DEADLINE) == -signal.SIGPIPE
    assert SUMMARY.match(terminal.lines()[-2])


def test_terminal_that_hangs_up(router):
    """The transfer goes on."""
    router.echo("echo")
    terminal = Terminal()
    process = router.keep(Running("connect", "--progress", router.address, "echo", terminal=terminal)).process
    terminal.wait("sent")
    terminal.close()
    time.sleep(0.3)  # for a line to fail
    assert process.communicate(b"x" * 100000, DEADLINE)[0] == b"x" * 100000
    assert process.returncode == 0


def test_terminal_that_is_held(connect, terminal):
    """Ctrl-S: nothing waits for it."""
    process = connect("--progress").process
    terminal.wait("sent")
    termios.tcflow(terminal.fd, termios.TCOOFF)
    time.sleep(0.3)
    assert process.communicate(b"x" * 100000, DEADLINE)[0] == b"x" * 100000
    assert process.returncode == 0


def test_closed_standard_error(connect):
    process = connect("--progress", terminal=None, preexec_fn=lambda: os.close(2)).process
    assert process.communicate(b"x", DEADLINE)[0] == b"x"
    assert process.returncode == 0


def test_messages_stand_behind_it(router, terminal):
    """In a line of their own."""
    backend = router.backend_tcp("foo")
    process = router.keep(Running("connect", "--progress", router.address, "foo", terminal=terminal)).process
    peer = backend.accept().send(b"x")
    terminal.wait("received +1")
    peer.reset()
    assert process.wait(DEADLINE) == 1
    last, message, end = terminal.lines()
    assert SUMMARY.match(last) and message.startswith("kaiso connect: service 'foo'") and end == ""


def test_not_with_fdpass(router):
    process = router.keep(Running("connect", "--progress", "--fdpass", router.address, "foo")).process
    _, told = process.communicate(b"", DEADLINE)
    assert process.returncode == 2 and b"--fdpass" in told


@pytest.mark.skipif(IS_SANITIZED, reason="a sanitizer makes calls of its own")
def test_no_call_more_for_a_chunk(router, terminal, tmp_path):
    """The relay's calls are the same; the meter's are those of a thread that wakes four times a second."""
    router.service("sink", lambda stream: stream.receive_all())

    def calls(*words):
        path = tmp_path / f"trace{len(words)}"
        with open(tmp_path / "input", "wb") as file:
            file.truncate(64 << 20)
        with open(tmp_path / "input", "rb") as file:
            subprocess.run(["strace", "-f", "-qq", "-o", path, KAISO, "connect", *words, router.address, "sink"],
                           stdin=file, stdout=subprocess.DEVNULL, stderr=terminal.fd, check=True, timeout=3 * DEADLINE,
                           env=clean_environment())
        return len(path.read_text().splitlines())

    plain, metered = calls(), calls("--progress")
    assert plain > 1000  # 512 chunks, two calls each
    assert metered < plain + 300


# A shell's job, in the background of a terminal where that stops who writes (tostop).
BACKGROUND = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
attributes = termios.tcgetattr(2)
attributes[3] |= termios.TOSTOP
termios.tcsetattr(2, termios.TCSANOW, attributes)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
quiet, _ = os.pipe()
pid = os.fork()
if pid == 0:
    os.dup2(quiet, 0)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
os.setpgid(pid, pid)
print(pid, flush=True)
for place in sys.stdin:
    os.tcsetpgrp(2, pid if place == "front\\n" else os.getpgrp())
    print(place, end="", flush=True)
os.waitpid(pid, 0)
"""


class Job:
    """kaiso as a job that begins in the background."""

    def __init__(self, terminal, *words):
        end, self.orders = os.pipe()
        self.process = subprocess.Popen([sys.executable, "-ISc", BACKGROUND, KAISO, *words], stdin=end, bufsize=0,
                                        stdout=subprocess.PIPE, stderr=terminal.fd, env=clean_environment())
        os.close(end)
        self.pid = int(self.process.stdout.readline())

    def move(self, place):
        os.write(self.orders, f"{place}\n".encode())
        assert self.process.stdout.readline() == f"{place}\n".encode()

    def is_stopped(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.orders)
        self.process.wait()
        self.process.stdout.close()


@pytest.mark.parametrize("form", ["connect", "expose"])
def test_in_the_background(router, terminal, tmp_path, form):
    """It writes nothing there, and goes on; it draws while it is in the foreground."""
    router.service("quiet", lambda stream: stream.receive_all())
    words = ["connect", "--progress", router.address, "quiet"]
    if form == "expose":
        words = ["expose", "--progress", "--log-level", "error", "--no-sandbox", "--threads", "1", "--control", "none",
                 router.address, "quiet", f"unix:{tmp_path}/quiet"]
    job = router.keep(Job(terminal, *words))
    time.sleep(0.4)
    assert terminal.shown() == "" and not job.is_stopped()
    job.move("front")
    terminal.wait("sent .*sent ")
    job.move("back")
    time.sleep(0.3)  # for one that was under way
    shown = terminal.shown()
    time.sleep(0.4)
    assert terminal.shown() == shown and not job.is_stopped()
    job.move("front")
    wait_until(lambda: len(terminal.shown()) > len(shown), "the meter to come back")


# ---- kaiso expose

class Exposer(Running):
    """Of the service echo, on a UNIX socket."""

    def __init__(self, router, terminal, *options):
        self.path = str(router.root / "echo.socket")
        super().__init__("expose", "--progress", "--threads", "2", "--control", "none", *options, router.address, "echo",
                         f"unix:{self.path}", terminal=terminal, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def client(self):
        return connect_unix(self.path)


@pytest.fixture
def expose(router, terminal):
    router.echo("echo")
    return lambda *options, **how: router.keep(Exposer(router, how.get("terminal", terminal), *options))


@pytest.mark.parametrize("log_format, line", [("logfmt", r"time=\S+ level=(\w+) msg=.*"), ("json", r"\{\"time\":.*\}")])
def test_meter_below_the_log(expose, terminal, log_format, line):
    """Lines of the log come whole above it; at the end totals are left."""
    terminal.resize(100)
    exposer = expose("--log-format", log_format)
    terminal.wait("ready")
    with exposer.client() as one, exposer.client() as other:
        one.sendall(b"x" * 5000)
        terminal.wait(r"clients +2 of 2  sent 4\.9K +[\d.]+K?/s  received 4\.9K")
        del other
    with exposer.client():
        pass
    terminal.wait(r"clients +0 of 3")
    exposer.process.terminate()
    assert exposer.process.wait(DEADLINE) == 0
    *log, last, end = terminal.lines()
    assert all(re.fullmatch(line, one) for one in log), log
    assert len(log) == 6 and end == ""  # ready, three sessions, draining, stopped
    assert last.startswith("clients 3, sent 4.9K (") and SUMMARY.match(last.partition(", ")[2])


def test_many_lines(expose, terminal):
    """None is torn, however many there are."""
    terminal.resize(150)
    exposer = expose()
    terminal.wait("ready")
    for _ in range(200):
        exposer.client().close()
        terminal.shown()
    terminal.wait("0 of 200")
    exposer.process.send_signal(signal.SIGINT)
    assert exposer.process.wait(DEADLINE) == 0
    *log, _, _ = terminal.lines()
    assert all(re.fullmatch(r"time=\S+ level=\w+ msg=.*", line) for line in log), log
    # A terminal that is read too slowly does not get all of them, and is told how many it did not.
    dropped = [int(line.rpartition("count=")[2]) for line in log if "lines dropped" in line]
    assert len(log) - len(dropped) + sum(dropped) == 203


def test_expose_without_a_terminal(expose):
    """Then there is a log and nothing else."""
    exposer = expose(terminal=None)
    wait_until(lambda: os.path.exists(exposer.path), "the socket")
    exposer.client().close()
    time.sleep(0.4)
    exposer.process.terminate()
    _, log = exposer.process.communicate(timeout=DEADLINE)
    assert b"\r" not in log and all(line.startswith(b"time=") for line in log.splitlines())


def test_upgrade(expose, terminal):
    """The next program goes on with the meter, and with what was counted."""
    exposer = expose()
    terminal.wait("ready")
    with exposer.client() as client:
        client.sendall(b"x" * 5000)
        terminal.wait(r"received 4\.9K")
        exposer.process.send_signal(signal.SIGUSR2)
        terminal.wait(r"msg=upgraded.*\r\n(?:.*\r)?\d+s  clients +1 of 1  sent 4\.9K")
        exposer.process.terminate()
        exposer.process.terminate()
    assert exposer.process.wait(DEADLINE) == 0
    assert terminal.lines()[-2].startswith("clients 1, sent 4.9K")


@pytest.mark.skipif(IS_SANITIZED, reason="it is about processor time")
def test_it_costs_little(expose, terminal):
    """Four times a second, next to nothing."""
    exposer = expose("--log-level", "error")
    terminal.wait("clients")
    before = cpu_seconds(exposer.process.pid)[0]
    time.sleep(1)
    assert cpu_seconds(exposer.process.pid)[0] - before < 0.02
