"""A router under faults, with all that it needs: services of every kind, a bystander, and a look at what it holds."""

import os
import resource
import signal
import socket
import time
from pathlib import Path

from harness import process
from harness.router import KAISO, Router
from harness.services import bind_tcp, bind_unix
from harness.stream import noise_piece
from harness.wait import wait_until

from . import peers
from .names import NameServer
from .peers import Service, Violation

LIBRARY = str(Path(KAISO).parent / "tests" / "faults" / "libkaiso-faults.so")
HAS_MEMORY_COUNTS = os.environ.get("KAISO_BUILD", "normal") == "normal"  # sanitizers have a malloc() of their own

OPTIONS_EXPOSE = ("--threads", "1", "--connect-timeout", "1s", "--drain-timeout", "2s", "--keepalive", "2s")
OPTIONS = ("--threads", "1", "--connect-timeout", "1s", "--request-timeout", "20s", "--drain-timeout", "2s",
           "--keepalive", "2s")


class FaultyRouter(Router):
    """A Router with the interposer in it."""

    def __init__(self, control, *options, env=None, **how):
        self.control = control
        environment = {"LD_PRELOAD": LIBRARY, "FAULTS_FD": control.fd, **(env or {})}
        super().__init__(*OPTIONS, *options, env=environment, pass_fds=(control.fd,), **how)

    def start(self):
        self.control.new_process()
        return super().start()

    def is_alive(self):
        return self.process.poll() is None


class Bystander:
    """A session that others' faults must not touch. Bytes of it are under way whenever a fault strikes."""

    PIECE = 20_000

    def __init__(self, world, service):
        before = set(process.list_fds(world.router.pid))
        self.sock = world.connect()
        if not isinstance(world, ExposedWorld):
            self.sock.sendall(service.encode() + b"\n")
        self.at = 0
        self.exchange()
        self.descriptors = sorted(set(process.list_fds(world.router.pid)) - before)

    def send(self):
        self.sock.settimeout(peers.PATIENCE)
        self.sock.sendall(noise_piece(self.at, self.PIECE))

    def receive(self):
        expected = bytes(noise_piece(self.at, self.PIECE))
        got, how = peers.pump(self.sock, end=False, enough=len(expected))
        if got != expected:
            raise Violation(f"a bystander got {len(got)} of {len(expected)} bytes"
                            f"{'' if expected.startswith(got) else ', wrong ones'}, then {how}")
        self.at += len(expected)

    def exchange(self):
        self.send()
        self.receive()


class Waiter:
    """A client with half a line: it has a deadline, and must neither be closed before nor hear anything."""

    RENEWED_SECONDS = 10

    def __init__(self, world):
        self.world = world
        self.sock = None
        self.renew()

    def renew(self):
        if self.sock:
            self.sock.close()
        self.since = time.monotonic()
        self.sock = self.world.connect()
        self.sock.sendall(b"ech")

    def check(self):
        self.sock.setblocking(False)
        try:
            got = self.sock.recv(100)
        except BlockingIOError:
            if time.monotonic() - self.since > self.RENEWED_SECONDS:
                self.renew()
            return
        except OSError as error:
            got = error
        self.renew()
        raise Violation(f"a client that has not ended its line got {got!r}")


class World:
    """start() makes all of it; after a crash it is made anew."""

    def __init__(self, control, *options, listen=None, bystanders=("bystander", "tcp-bystander"), env=None, **how):
        self.control = control
        self.router = FaultyRouter(control, *options, env=env, **how)
        self.unix_path = str(self.router.root / "listener")
        self.router.listen = listen or ("127.0.0.1:0", f"unix:{self.unix_path}")
        self.services = {}
        self.bystanders = []
        self.waiter = None
        self._bystanders = bystanders
        self.clients = []
        self.extra_names = ()

    def start(self):
        self.make_services()
        self.router.start()
        self.port = self.router.port
        self.router.describe("again", f"127.0.0.1:{self.port} echo\n")
        self.router.describe("zz-last", f"127.0.0.1:{self.port} nothing\n")
        self.stand_by()
        self.waiter = Waiter(self)
        return self

    def stand_by(self):
        for name in self._bystanders:
            self.bystanders.append(Bystander(self, name))
        self.control.exempt([fd for bystander in self.bystanders for fd in bystander.descriptors])

    def add(self, name, listener, handler, receiving=None):
        self.services[name] = Service(listener, handler, receiving)
        return self.services[name]

    def unix(self, name, handler, receiving=None):
        return self.add(name, bind_unix(self.router.path(name)), handler, receiving)

    def tcp(self, name, handler, text="127.0.0.1:{}\n"):
        service = self.add(name, bind_tcp(), handler)
        self.router.describe(name, text.format(service.listener.getsockname()[1]))
        return service

    def make_services(self):
        router = self.router
        self.unix("bystander", peers.echo)
        self.tcp("tcp-bystander", peers.echo)
        self.unix("echo", peers.echo)
        self.tcp("tcp", peers.echo)
        self.tcp("name", peers.echo, "localhost:{}\n")
        self.unix("source", peers.source)
        self.tcp("tcp-source", peers.source)
        self.unix("late", peers.answer_late)
        self.tcp("tcp-late", peers.answer_late)
        self.tcp("breaks", peers.break_off)
        self.unix("dir/deep/echo", peers.echo)
        self.unix(".hidden-echo", peers.echo)
        router.describe("file", ".hidden-echo\n")
        router.describe("bad", "127.0.0.1:99999\n")
        self.unix(".one", peers.echo, "one")
        router.describe("hand", ".one passfd\n")
        self.unix(".lasting", peers.echo, "lasting")
        router.describe("lasting", ".lasting passfd\n")
        door = self.add("door", bind_tcp(), lambda sock, call: sock.recv(1))
        self.unix(".knock", peers.echo, "one")
        router.describe("knock", f".knock passfd:{door.listener.getsockname()[1]}\n")
        bind_unix(router.path("dead")).close()
        router.link("links/echo", "../echo")
        router.link("links/dir", "../dir")
        for number in range(20):
            router.link(f"many/{number:02}", "../echo")

    def connect(self, is_unix=False):
        if not is_unix:
            return self.connect_port(self.port)
        sock = socket.socket(socket.AF_UNIX)
        self.clients.append(sock)
        sock.settimeout(peers.PATIENCE)
        sock.connect(self.unix_path)
        return sock

    def connect_port(self, port):
        sock = socket.socket()
        self.clients.append(sock)
        sock.settimeout(peers.PATIENCE)
        try:
            sock.connect(("127.0.0.1", port))
        except ConnectionResetError:
            return sock  # it was there, and is over already: reading tells that as well
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def calls(self, *names):
        return [call for name in names for call in self.services[name].calls(name)]

    def forget(self):
        """The sockets and the calls of a scenario that was broken off."""
        kept = [one.sock for one in (*self.bystanders, self.waiter) if one]
        for sock in self.clients:
            if not any(sock is other for other in kept):
                sock.close()
        self.clients = kept

    def settle(self, is_thorough=True):
        """Whoever came before is dealt with. Thorough: who was not let in until now as well."""
        if is_thorough:
            self.ask()
            time.sleep(0.02)
            self.forget()
        self.settle_services()

    def ask(self):
        got, how = peers.pump(self.connect(), b".kaiso/version\n", end=False, enough=6)
        if got[:6] != b"kaiso ":
            raise Violation(f"afterwards, it does not answer: {got!r}, then {how}")

    def settle_services(self):
        for name, service in self.services.items():
            if "bystander" not in name:
                service.calls(name)

    # ---- what the router holds

    def holdings(self):
        """(descriptors, blocks of memory)."""
        return (len(os.listdir(f"/proc/{self.router.pid}/fd")),
                self.control.shared.blocks if HAS_MEMORY_COUNTS else 0)

    def limit_descriptors(self, limit):
        _, hard = resource.prlimit(self.router.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.router.pid, resource.RLIMIT_NOFILE, (limit, hard))

    def end(self):
        """As an operator would; a sanitizer then tells what has leaked."""
        for sock in self.clients:
            sock.close()
        self.router.signal(signal.SIGTERM)
        code = self.router.wait_exit()
        if code != 0:
            raise Violation(f"in the end it exits with {code}:\n{self.router.log.text()[-2000:]}")

    def close(self):
        for sock in self.clients:
            sock.close()
        self.router.kill()
        for service in self.services.values():
            service.close()
        self.router.remove()


class OperatedWorld(World):
    """With all that tells what it is doing: a control socket, --http, and a service manager that watches it."""

    WATCHDOG_SECONDS = 0.4  # half of it is the pause between two signs of life

    def __init__(self, control, *options, **how):
        super().__init__(control, "--http", "127.0.0.1:0", *options, **how)
        root = self.router.root
        self.manager = self.router.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        self.manager.bind(str(root / "manager"))
        self.router.env |= {"XDG_RUNTIME_DIR": str(root), "NOTIFY_SOCKET": str(root / "manager"),
                            "WATCHDOG_USEC": str(int(1e6 * self.WATCHDOG_SECONDS))}

    def start(self):
        super().start()
        self.http_address = self.router.log.find(msg="ready")[0].all("http")[0]
        return self

    def connect_control(self):
        sock = socket.socket(socket.AF_UNIX)
        self.clients.append(sock)
        sock.settimeout(peers.PATIENCE)
        sock.connect(str(self.router.root / "kaiso" / "control"))
        return sock

    def connect_http(self):
        return self.connect_port(int(self.http_address.rpartition(":")[2]))

    def told(self):
        """What the manager was told since the last time."""
        text = b""
        while True:
            try:
                text += self.manager.recv(1000) + b"\n"
            except BlockingIOError:
                return text


class RoutedWorld(World):
    """With option lines, several targets, a mount, hosts that DNS has, and front ends that say whose connections theirs are."""

    def __init__(self, control, *options, **how):
        self.name_server = NameServer()
        super().__init__(control, "--proxy-from", "unix", "--dns", self.name_server.address, *options, **how)
        self.extra_names = ("chosen", "few", "front", "guarded/echo", "handed", "mounted/", "other", "served")

    def start(self):
        super().start()
        router = self.router
        self.unix("guarded/echo", peers.echo)
        self.unix(".second", peers.echo)
        self.tcp("other", peers.echo)
        port = self.services["other"].listener.getsockname()[1]
        router.describe("guarded/.kaiso", "allow 127.0.0.0/8 192.0.2.7\nidle-timeout 20s\n")
        router.describe("chosen", f"dead\nbackend 127.0.0.1:{port}\nbackend .second\n")
        router.describe("few", ".second\nmax-sessions 2\nbalance round-robin\nbackend .second\n")
        router.describe("handed", "dead passfd\nbackend .one passfd\n")
        router.describe("front", f"127.0.0.1:{port}\nproxy v2\nallow 192.0.2.7 127.0.0.1\n")
        router.describe("mounted", f"127.0.0.1:{self.port} /\n")
        self.name_server.port_of_all = port
        router.describe("served", "srv:_kaiso._tcp.test\n")
        return self

    def close(self):
        super().close()
        self.name_server.close()


class ExposedWorld(World):
    """`kaiso expose` under faults, of a router without any: each service has a listener of its own."""

    EXPOSED = ("echo", "tcp", "late", "source", "breaks", "nothing", "bystander")

    def __init__(self, control, *options, **how):
        super().__init__(control, *options, bystanders=("bystander",), **how)
        self.kaiso = Router("--threads", "1", services=self.router.services)

    def start(self):
        self.make_services()
        self.kaiso.start()
        words = [word for name in self.EXPOSED for word in (name, "127.0.0.1:0")]
        self.router.command = ["expose", *OPTIONS_EXPOSE, self.kaiso.address, *words]
        self.router.start()
        self.ports = {name: int(address.rpartition(":")[2]) for name, address in zip(self.EXPOSED, self.router.addresses)}
        self.stand_by()
        return self

    def connect(self, is_unix=False, name="bystander"):
        return self.connect_port(self.ports[name])

    def settle(self, is_thorough=True):
        """The router in between may only now connect to a service."""
        super().settle(True)

    def ask(self):
        got, how = peers.pump(self.connect(), b"?", end=False, enough=1)
        if got != b"?":
            raise Violation(f"afterwards, it does not serve: {got!r}, then {how}")

    def close(self):
        super().close()
        self.kaiso.kill()
        self.kaiso.remove()
