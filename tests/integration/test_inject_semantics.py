"""What connect(2) says to a wrapped program is what it says to every program.

programs/connect_probe.c writes down the results of its calls. It runs with and without the wrapper against the same
listener, and both must say the same; the listener must get the same bytes, behind the service's line.
"""

import socket
import subprocess
import sys
import threading

import pytest

from harness.inject import MODES, compile_c, inject_words
from harness.namespaces import unshared
from harness.router import clean_environment
from harness.services import closed_port
from harness.wait import DEADLINE, wait_until

LINE = b"some/service\r\n"

CONNECTED = ["blocking", "nonblocking", "fastopen", "fastopen-nonblocking", "fastopen-messages", "fastopen-option",
             "again", "mapped", "mptcp", "shared", "leaderless", "wrong"]
REFUSED = ["refused", "refused-blocking", "fastopen-refused"]
BUSY = ["busy", "busy-timeout", "busy-interrupted", "busy-restarted", "busy-timeout-interrupted"]

# Static programs too: the way of the call into the kernel must not matter.
VARIANTS = [("seccomp", ()), ("preload", ()), ("seccomp", ("-static",))]
variants = pytest.mark.parametrize("mode, flags", VARIANTS)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


class Echo:
    """Echoes what comes behind the line (if any), and keeps all that came."""

    def __init__(self, line, host):
        self.line = line
        self.got = []
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.bind((host, 0))
        self.listener.listen(512)
        self.address = self.listener.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock):
        got = b""
        try:
            while chunk := sock.recv(65536):
                got += chunk
            sock.sendall(got.removeprefix(self.line))
        except OSError:
            pass  # a client that only looked
        sock.close()
        self.got.append(got)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def run_probe(path, case, address, mode):
    words = [path, case, address[0], str(address[1])]
    if mode:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        words = inject_words(mode, f"{host}:{address[1]}", LINE.strip().decode(), *words)
    done = subprocess.run(words, capture_output=True, check=False, timeout=DEADLINE, env=clean_environment())
    return done.stdout.decode(), done.stderr, done.returncode


@variants
@pytest.mark.parametrize("case", CONNECTED)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connected(built, mode, flags, case, host):
    if case == "mapped" and host == "::1":
        host = "127.0.0.1"
    path = compile_c(built, "connect_probe", *flags)
    native, wrapped = Echo(b"", host), Echo(LINE, host)
    try:
        expected = run_probe(path, case, native.address, None)
        assert run_probe(path, case, wrapped.address, mode) == expected
        wait_until(lambda: len(wrapped.got) == len(native.got), "the connections to be the same number")
        assert sorted(wrapped.got) == sorted(LINE + got for got in native.got)
    finally:
        native.close()
        wrapped.close()


@variants
@pytest.mark.parametrize("case", REFUSED)
def test_refused(built, mode, flags, case):
    path = compile_c(built, "connect_probe", *flags)
    port, holder = closed_port()
    with holder:
        expected = run_probe(path, case, ("127.0.0.1", port), None)
        assert run_probe(path, case, ("127.0.0.1", port), mode) == expected


@variants
@pytest.mark.parametrize("case", BUSY)
def test_full_backlog(built, mode, flags, case):
    path = compile_c(built, "connect_probe", *flags)
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(4):
        fillers.append(socket.socket())
        fillers[-1].setblocking(False)
        fillers[-1].connect_ex(listener.getsockname())
    try:
        expected = run_probe(path, case, listener.getsockname(), None)
        assert run_probe(path, case, listener.getsockname(), mode) == expected
    finally:
        for sock in (listener, *fillers):
            sock.close()


@variants
def test_a_storm_of_signals(built, mode, flags):
    echo = Echo(LINE, "127.0.0.1")
    try:
        assert run_probe(compile_c(built, "connect_probe", *flags), "storm", echo.address, mode) == ("wrong: 0\n", b"", 0)
    finally:
        echo.close()


WITHOUT_FAST_OPEN = """
import fcntl, socket, struct, subprocess, sys, threading
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, running, loopback
open("/proc/sys/net/ipv4/tcp_fastopen", "w").write("0")
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
def echo(sock):
    try:
        got = b""
        while chunk := sock.recv(65536):
            got += chunk
        assert got.startswith(b"web\\r\\n"), got[:99]
        sock.sendall(got[5:])
    except ConnectionResetError:
        pass
    sock.close()
def run():
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=run, daemon=True).start()
port = str(listener.getsockname()[1])
words = [word.replace("PORT", port) for word in sys.argv[1:]]
sys.exit(subprocess.run(words, timeout=60).returncode)
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_system_that_forbids_fast_open(built, mode):
    """In a network namespace of its own: the line goes behind the handshake, and still before all else."""
    client = compile_c(built, "short_connections")
    done = subprocess.run(
        [*unshared("net"), sys.executable, "-c", WITHOUT_FAST_OPEN,
         *inject_words(mode, "127.0.0.1:PORT", "web", client, "127.0.0.1", "PORT", "8", "800")],
        capture_output=True, check=False, timeout=3 * DEADLINE, env=clean_environment())
    assert (done.stdout, done.stderr, done.returncode) == (b"800 right\n", b"", 0)
