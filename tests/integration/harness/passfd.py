"""Servers under `kaiso passfd`, and clients that look closely at what they get."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import threading

from . import process
from .router import KAISO, clean_environment
from .stream import Stream
from .wait import DEADLINE, Overdue, wait_until

MODES = ("seccomp", "preload")


_reserved = []  # sockets whose names say which ports are in use, for other test runs too


def _is_unused(port):
    """No socket has it on any address, not even one in TIME-WAIT, which keeps a listener for all addresses away."""
    is_dual = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if is_dual else socket.AF_INET) as sock:
        if is_dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::" if is_dual else "0.0.0.0", port))
        except OSError:
            return False
    return True


def _reserve(port):
    """False when a test that runs at the same time has it, whose server may not listen yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(f"\0kaiso-test-port-{port}")
    except OSError:
        sock.close()
        return False
    _reserved.append(sock)
    return True


def free_port():
    """A port for a server that starts later, and for nobody else until these tests end.

    None that the kernel gives out by itself: a client anywhere on the machine could get it before the server does.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first_given = int(file.read().split()[0])
    ports = range(10000, first_given if first_given > 12000 else 65536)
    return next(port for port in random.sample(ports, len(ports)) if _reserve(port) and _is_unused(port))


def descendants(pid):
    """All processes that come from this one, and it: what lives of them."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as children:
                    found.extend(int(child) for child in children.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def parent_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def is_alive(pid):
    """Runs still: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Wrapped:
    """`kaiso passfd [OPTIONS] SOCKET -- PROGRAM …` with its output in a file. start() at once; close() ends it.

    socket_path: default a hidden socket in the router's services. command: instead of "passfd" and options.
    """

    def __init__(self, router, program, *options, mode="auto", socket_path=None, command=None, wrapper=(), cwd=None,
                 user=None, kaiso=KAISO, name="web", awaits_socket=True, **env):
        self.root = str(router.root)
        self.socket_path = socket_path or os.fsdecode(router.path(f".{name}"))
        self.log_path = os.path.join(self.root, f"{name}.{len(os.listdir(self.root))}.out")
        if command is None:
            command = [kaiso, "passfd", "--mode", mode, *options, self.socket_path, "--"]
        self.program = [str(word) for word in program]
        if socket_path is None:
            router.describe(name, f".{name} passfd\n")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, *command, *self.program], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=cwd or self.root, env=clean_environment(**env), user=user, start_new_session=True,
            )
        router.keep(self)
        if awaits_socket:
            wait_until(lambda: os.path.exists(self.socket_path) or self.process.poll() is not None, "SOCKET")
        self._helpers = descendants(self.pid)[1:2]

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    @property
    def helper(self):
        """The process that receives: the tool's child."""
        return descendants(self.pid)[1]

    @property
    def server(self):
        """The program itself: the helper's first child."""
        return descendants(self.helper)[1]

    def _is_over(self):
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output()}"

    def wait_port(self, port, host="127.0.0.1"):
        """Waits until somebody listens there, without connecting."""

        def listens():
            self._is_over()
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
                try:
                    sock.connect((host, port))
                except ConnectionRefusedError:
                    return False
                return True

        wait_until(listens, lambda: f"port {port} to be listened on:\n{self.output()}")
        return self

    def wait_output(self, text):
        def has():
            found = text in self.output()
            if not found:
                self._is_over()
            return found

        wait_until(has, lambda: f"the output {text!r}:\n{self.output()}")
        return self

    def wait_exit(self):
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Overdue(f"kaiso passfd did not end within {DEADLINE:g} s:\n{self.output()}") from None

    def end(self, number=signal.SIGTERM):
        """Ends the program by a signal to the tool; nothing of it stays."""
        processes = descendants(self.pid)
        self.process.send_signal(number)
        code = self.wait_exit()
        wait_until(lambda: not any(is_alive(pid) for pid in processes), lambda: f"{processes} to end:\n{self.output()}")
        return code

    def assert_quiet(self):
        """The helper has nothing to do and does nothing."""
        process.assert_quiet(self.helper)

    def _is_ours(self, pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                return os.fsencode(self.program[0]) in cmdline.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False

    def close(self):
        """Ends what is left: where a test has killed the tool or the program, the helper may live on with the rest."""
        roots = [self.pid] if self.process.poll() is None else []
        roots += [pid for pid in self._helpers if self._is_ours(pid)]
        for pid in [pid for root in roots for pid in reversed(descendants(root))]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def at_once(count, width, function):
    """Runs function(number) for 0 … count-1, width at a time; raises the first error, with its number."""
    numbers = iter(range(count))
    lock = threading.Lock()
    errors = []

    def work():
        while not errors:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                function(number)
            except BaseException as error:
                errors.append((number, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * DEADLINE)
        if thread.is_alive():
            raise Overdue(f"clients did not end within {4 * DEADLINE:g} s")
    if errors:
        raise AssertionError(f"client {errors[0][0]}: {errors[0][1]!r}") from errors[0][1]


def connect_plain(port, host="127.0.0.1"):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.settimeout(DEADLINE)
    sock.connect((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Stream(sock)


def temporary_directory(router):
    return tempfile.mkdtemp(dir=str(router.root))
