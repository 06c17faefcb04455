"""A real `kaiso serve` in a directory of its own, watched from outside."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from . import process
from .logfmt import Log
from .services import Backend, Receiver, Service, bind_tcp, bind_unix, connect_unix, echo, make_directories
from .stream import Stream
from .wait import DEADLINE, Overdue, wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
KAISO = str(Path(REPOSITORY, os.environ.get("KAISO", "build/kaiso")).resolve())

# Descriptors that may stay after the first use of something, by kind: the pools of pipes that
# splicing needs (each thread keeps up to 16 idle ones, two ends a pipe) and event descriptors of
# threads that start late. Sockets and files may not.
LAZY_PIPES_PER_THREAD = 32
LAZY_EVENTS = 4

SANITIZER_REPORT = re.compile(
    rb"(Address|Leak|Thread|UndefinedBehavior|Memory)Sanitizer|runtime error:|DEADLYSIGNAL|stack smashing|double free"
)


def clean_environment(**extra):
    """The environment without what a service manager, or the user, may have put there for a kaiso."""
    environment = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("KAISO", "LISTEN_", "NOTIFY_", "JOURNAL_"))
    }
    environment.update({key: str(value) for key, value in extra.items()})
    return environment


def run_kaiso(*arguments, cwd=None, **env):
    """A command that ends by itself: CompletedProcess with bytes."""
    return subprocess.run(
        [KAISO, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False,
        cwd=cwd, env=clean_environment(**env),
    )


class Router:
    """start() it, use it, stop() it; the fixture does both ends. Whatever is made through it is closed by it.

    options: words for `kaiso serve`. listen: addresses. services: a directory other than its own.
    wrapper: words before the program (they must exec it, so that the process stays the same).
    command: all words behind the program's name, instead of the usual ones. env: variables for it.
    """

    log_kind = Log

    def __init__(self, *options, listen=("127.0.0.1:0",), services=None, wrapper=(), command=None, cwd=None,
                 env=None, pass_fds=(), awaits_ready=True):
        self.root = Path(tempfile.mkdtemp(prefix="kaiso-"))
        self.services = self.root / "services"
        self.services.mkdir()
        self.options = options
        self.listen = listen
        self.services_argument = str(services if services is not None else self.services)
        self.wrapper = wrapper
        self.command = command
        self.cwd = cwd
        self.env = env or {}
        self.pass_fds = pass_fds
        self.awaits_ready = awaits_ready
        self.process = None
        self.log = None
        self.addresses = []
        self.fds_when_ready = None
        self.is_stopped = False
        self._things = []  # to close, last first

    # ---- the process

    def start(self):
        command = self.command
        if command is None:
            command = ["serve", "--services", self.services_argument, *self.options, *self.listen]
        log_end, stderr = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*self.wrapper, KAISO, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=stderr, cwd=self.cwd, env=clean_environment(**self.env), pass_fds=self.pass_fds,
            )
        finally:
            os.close(stderr)
        self.log = self.log_kind(log_end)
        if self.awaits_ready:
            self._await_ready()
        return self

    def _await_ready(self):
        def ready():
            if self.process.poll() is not None:
                self.log.join()
                raise AssertionError(f"the router ended with {self.process.returncode}:\n{self.log.text()}")
            return self.log.find(msg="ready")

        line = wait_until(ready, lambda: f"the router's ready line; its log:\n{self.log.text()}")[0]
        for value in line.all("listen"):
            self.addresses.extend(value if isinstance(value, list) else [value])
        self.fds_when_ready = process.count_fds(self.pid)

    @property
    def pid(self):
        return self.process.pid

    @property
    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self):
        """Its exit code, once it ended by itself."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Overdue(f"the router did not end within {DEADLINE:g} s; its log:\n{self.log.text()}") from None
        self.log.join()
        return code

    # ---- clients

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def connect(self, address=None, source=None, receive_buffer=None):
        """A client. source: the address it comes from, as 127.0.0.2."""
        address = address or self.address
        if address.startswith("unix:"):
            sock = connect_unix(address[len("unix:"):])
        else:
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.settimeout(DEADLINE)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                sock.bind((source, 0))
            sock.connect((host, int(port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.keep(Stream(sock))

    def open(self, service, **where):
        """A client that has sent the line for a service."""
        return self.connect(**where).line(service)

    def list(self, directory="", **where):
        """A list as a client gets it, in bytes, in a connection of its own."""
        with self.connect(**where) as client:
            client.line(directory).end()
            return client.receive_all()

    def settle(self):
        """Returns when the router has dealt with everything sent before (with one thread: its loop came round)."""
        for _ in range(2):
            with self.connect() as client:
                client.line(".kaiso/version" if "--no-verbs" not in self.options else "").receive_line()

    # ---- services

    def path(self, name):
        return os.path.join(os.fsencode(self.services), name.encode() if isinstance(name, str) else name)

    def keep(self, thing):
        self._things.append(thing)
        return thing

    def describe(self, name, content):
        """Writes a service description, in one step."""
        path = self.path(name)
        os.close(make_directories(os.path.dirname(path)))
        passing_path = os.path.join(os.path.dirname(path), b".passing")
        with open(passing_path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.rename(passing_path, path)

    def link(self, name, target):
        path = self.path(name)
        os.close(make_directories(os.path.dirname(path)))
        os.symlink(os.fsencode(target), path)

    def mkdir(self, name):
        os.close(make_directories(self.path(name)))

    def backend(self, name, backlog=128):
        """A UNIX service whose connections the test accepts."""
        backend = Backend(bind_unix(self.path(name), backlog))
        backend.remember_path(self.path(name))
        return self.keep(backend)

    def backend_tcp(self, name=None, host="127.0.0.1", backlog=128):
        """The same over TCP, described at name."""
        backend = self.keep(Backend(bind_tcp(host, backlog)))
        if name is not None:
            self.describe(name, backend.address + "\n")
        return backend

    def service(self, name, handler, backlog=128):
        """A UNIX service that runs handler(stream) for each connection."""
        return self.keep(Service(bind_unix(self.path(name), backlog), handler))

    def service_tcp(self, name, handler, host="127.0.0.1", backlog=128):
        service = self.keep(Service(bind_tcp(host, backlog), handler))
        if name is not None:
            self.describe(name, service.address + "\n")
        return service

    def echo(self, name):
        return self.service(name, echo)

    def receiver(self, name, socket_name=".receiver", suffix="passfd", **how):
        """A description at name, and who receives its clients."""
        receiver = self.keep(Receiver(bind_unix(self.path(socket_name)), **how))
        self.describe(name, f"{socket_name} {suffix}\n")
        return receiver

    # ---- what it tells

    def wait_log(self, count=1, **fields):
        return self.log.wait(count, **fields)

    def wait_session(self, client, **expected):
        """The line about the session of this client (a Stream, or its address), with these values."""
        line = self.log.wait(msg="session", client=getattr(client, "name", client))
        for key, value in expected.items():
            assert line.get(key) == str(value), f"{key} should be {value} in: {line}"
        return line

    def rss(self):
        return process.rss_bytes(self.pid)

    def fds(self):
        return process.count_fds(self.pid)

    def assert_quiet(self):
        process.assert_quiet(self.pid)

    def wait_fds_back(self):
        """Waits until the router holds no more descriptors than when it was ready, but for the lazy kinds."""
        allowed = dict(self.fds_when_ready)
        allowed["pipe"] += LAZY_PIPES_PER_THREAD * self.threads
        allowed["event"] += LAZY_EVENTS

        def leaked():
            return {kind: count for kind, count in self.fds().items() if count > allowed[kind]}

        wait_until(
            lambda: not leaked(),
            lambda: f"descriptors to be closed: {leaked()} where {allowed} are allowed; {process.list_fds(self.pid)}\n"
                    f"{self.log.text()[-4000:]}",
        )

    # ---- the end

    def close_things(self):
        """Clients first, then services; errors of services come up here."""
        errors = []
        for thing in reversed(self._things):
            try:
                thing.close()
            except BaseException as error:
                errors.append(error)
        self._things.clear()
        if errors:
            raise errors[0]

    def stop(self):
        """Everything that must hold at the end of every test. A test may have ended the router itself before."""
        if self.is_stopped or self.process is None:
            return
        self.is_stopped = True
        try:
            if self.process.poll() is None:
                if self.fds_when_ready is not None:
                    self.wait_fds_back()
                self.signal(signal.SIGTERM)
            code = self.wait_exit()
            self.check_log()
            assert code == 0, f"the router ended with {code}:\n{self.log.text()[-8000:]}"
        finally:
            self.kill()

    def check_log(self):
        reports = [raw for raw in self.log.raw if SANITIZER_REPORT.search(raw)]
        assert not reports, f"a sanitizer reported:\n{self.log.text()[-20000:]}"
        assert not self.log.odd, f"not lines of a log: {self.log.odd[:5]}"

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def remove(self):
        subprocess.run(["rm", "-rf", str(self.root)], check=False)
        if self.root.exists():
            shutil.rmtree(self.root, ignore_errors=True)
