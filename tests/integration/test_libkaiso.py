"""libkaiso as a program meets it: installed, linked, and between a real router and the examples in three languages."""

import ctypes
import errno
import os
import re
import resource
import select
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from harness import process
from harness.passfd import at_once
from harness.router import KAISO, REPOSITORY, clean_environment
from harness.services import closed_port, connect_unix
from harness.stream import noise
from harness.wait import DEADLINE, wait_until

BUILD = Path(KAISO).parent
EXAMPLES = REPOSITORY / "examples"
RECEIVERS = ("c", "c-static", "python", "go")


def run(*command, **how):
    """A command that must succeed; what it printed."""
    result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            timeout=6 * DEADLINE, check=False, **how)
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


class Library:
    """What `meson install` lays out, in a directory of its own."""

    def __init__(self, root):
        self.root = root
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root / "dest", "--tags", "runtime,devel")
        self.pc = next((root / "dest").rglob("kaiso.pc"))
        self.directory = self.pc.parent.parent
        self.shared = self.directory / "libkaiso.so.0"
        self.static = self.directory / "libkaiso.a"
        self.header = next((root / "dest").rglob("kaiso.h"))

    def flags(self, *words):
        """As pkg-config tells them to a compiler; the prefix is where it was installed to."""
        flags = run("pkg-config", f"--define-variable=prefix={self.header.parent.parent}", *words, "kaiso",
                    env={**os.environ, "PKG_CONFIG_PATH": self.pc.parent, "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1"})
        return flags.split()

    def compile(self, name, *options, compiler="cc", source=None, static=False):
        """An example, or another source, with the warnings on."""
        program = self.root / f"{name}{'-static' if static else ''}"
        source = source or EXAMPLES / f"{name}.c"
        words = ["--cflags", "--libs", "--static"] if static else ["--cflags", "--libs"]
        warnings = ["-Wall", "-Wextra", "-Werror"]
        run(compiler, *options, *warnings, *(["-static"] if static else []), "-o", program, source, *self.flags(*words))
        return program

    def run(self, *command, **env):
        return subprocess.run([str(word) for word in command], input=b"hello", capture_output=True, timeout=DEADLINE,
                              check=False, env=self.environment(**env))

    def environment(self, **env):
        return clean_environment(LD_LIBRARY_PATH=self.directory, **env)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return Library(tmp_path_factory.mktemp("libkaiso"))


@pytest.fixture(scope="session")
def example(library):
    """example(KIND): the words that start the echo server of that kind. Each is built once."""
    built = {}

    def build(kind):
        if kind == "python":
            return ["/usr/bin/python3", EXAMPLES / "server.py"]
        if kind == "go":
            program = library.root / "server-go"
            run("go", "build", "-o", program, EXAMPLES / "server.go",
                env={**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off",
                     "GOCACHE": library.root / "go-cache"})
            return [program]
        return [library.compile("server", "-std=gnu11", static=kind == "c-static")]

    def get(kind):
        if kind not in built:
            built[kind] = build(kind)
        return built[kind]

    return get


class Echo:
    """A running example, described as NAME in the router's services."""

    def __init__(self, router, library, command, name="echo", descriptors=None):
        self.path = os.fsdecode(router.path(f".{name}"))
        self.command = [*command, self.path]
        self.env = library.environment()
        self.descriptors = descriptors
        router.describe(name, f"{self.path} passfd\n")
        router.keep(self)
        self.start()

    def start(self):
        self.process = subprocess.Popen([str(word) for word in self.command], stdin=subprocess.DEVNULL, env=self.env)
        wait_until(self._listens, "the example to listen")
        if self.descriptors:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        self.sockets = self.count_sockets()

    def _listens(self):
        assert self.process.poll() is None, "the example has ended"
        try:
            connect_unix(self.path).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def count_sockets(self):
        return process.count_fds(self.process.pid)["socket"]

    def close(self):
        self.process.kill()
        self.process.wait()


def converse(client, size):
    """The client's address as the server knows it, then echoed bytes; nothing before, between or behind."""
    assert client.receive_line().decode() == client.name.replace(":", " ") + "\n"
    client.send(noise(size)).end()
    assert client.receive_all() == noise(size)


# ---- receiving

@pytest.mark.parametrize("kind", RECEIVERS)
def test_four_hundred_clients(new_router, library, example, kind):
    """Twenty at a time, over all threads of the router: each has its own bytes and its true address."""
    router = new_router("--threads", "4")
    echo = Echo(router, library, example(kind))

    def client(number):
        # Some send everything at once, so that most of it is in the socket before it is handed over.
        with router.connect() as stream:
            if number % 2:
                stream.send(b"echo\r\n")
                converse(stream, 100 + 37 * number)
            else:
                body = b"number %d\r\n" % number
                stream.send(b"echo\n" + body).end()
                assert stream.receive_all() == stream.name.replace(":", " ").encode() + b"\n" + body

    at_once(400, 20, client)
    # What stays is one connection for each of the router's threads, at most.
    wait_until(lambda: echo.count_sockets() <= echo.sockets + 4, "the clients' sockets to be closed")
    process.assert_quiet(echo.process.pid)
    router.assert_quiet()
    echo.close()
    router.wait_fds_back()


@pytest.mark.parametrize("kind", RECEIVERS)
def test_receiver_restarted(new_router, library, example, kind):
    """Killed, it leaves its socket file; the next one replaces that, and the router goes on with it."""
    router = new_router("--threads", "2")
    echo = Echo(router, library, example(kind))
    for _ in range(3):
        for _ in range(6):
            converse(router.open("echo"), 1000)
        echo.close()
        assert os.path.exists(echo.path)
        router.open("echo").expect_closed()
        echo.start()
    converse(router.open("echo"), 1000)


@pytest.mark.parametrize("kind", RECEIVERS)
def test_router_restarted(new_router, library, example, kind):
    """Clients stay with the server when the router ends, and the next router is served like the first."""
    first = new_router()
    second = new_router(services=first.services)
    echo = Echo(first, library, example(kind))
    staying = second.keep(first.connect()).line("echo")
    staying.receive_line()
    first.wait_session(staying, reason="handed-over")
    first.signal(15)
    assert first.wait_exit() == 0
    for _ in range(6):
        converse(second.open("echo"), 1000)
    staying.exchange(b"still here")
    staying.close()
    wait_until(lambda: echo.count_sockets() <= echo.sockets + second.threads, "what is of the first router to be closed")


@pytest.mark.parametrize("kind", ["c", "python"])
def test_limit_of_descriptors(new_router, library, example, kind):
    """More clients than the server can have: those beyond wait, and are served when others leave."""
    router = new_router("--threads", "1")
    echo = Echo(router, library, example(kind), descriptors=30)
    if kind == "python":  # only the library sees to it that waiting routers leave room for clients
        converse(router.open("echo"), 10)
    waiting = {router.open("echo") for _ in range(80)}
    served = []
    while waiting:
        ready, _, _ = select.select([client.sock for client in waiting], [], [], DEADLINE)
        assert ready, f"{len(waiting)} clients are not served"
        for client in [client for client in waiting if client.sock in ready]:
            assert client.receive_line().decode() == client.name.replace(":", " ") + "\n"
            served.append(client.exchange(b"hello"))
            waiting.remove(client)
        while len(served) > 5:
            served.pop(0).close()
    for client in served:
        client.exchange(b"still here").close()
    wait_until(lambda: echo.count_sockets() <= echo.sockets + router.threads, "the clients' sockets to be closed")
    converse(router.open("echo"), 1000)


@pytest.mark.parametrize("kind", RECEIVERS)
def test_silent_connections_delay_nobody(router, library, example, kind):
    """Fifty that connect to the receiver and say nothing."""
    echo = Echo(router, library, example(kind))
    silent = [router.keep(connect_unix(echo.path)) for _ in range(50)]
    for _ in range(20):
        converse(router.open("echo"), 1000)
    assert len(silent) == 50


# ---- dialling and listing

class Entry(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("kind", ctypes.c_char_p), ("about", ctypes.c_char_p)]


class Caller:
    """The shared library, called from here."""

    def __init__(self, path):
        self.calls = ctypes.CDLL(str(path))
        self.calls.kaiso_dial.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
        self.calls.kaiso_strerror.restype = ctypes.c_char_p

    def dial(self, router, service):
        """A Stream would peek at nothing either: the socket, or the errno's name."""
        fd = self.calls.kaiso_dial(router.encode(), service.encode(), int(DEADLINE * 1000))
        return socket.socket(fileno=fd) if fd >= 0 else errno.errorcode[-fd]

    def list(self, router, directory):
        entries = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Entry), ctypes.c_void_p)
        def callback(entry, _):
            entries.append((entry.contents.path, entry.contents.kind))
            return 0

        result = self.calls.kaiso_list(router.encode(), directory, int(DEADLINE * 1000), callback, None)
        return entries if result == 0 else errno.errorcode[-result]


@pytest.fixture(scope="session")
def caller(library):
    return Caller(library.shared)


def echoes(sock):
    with sock:
        sock.settimeout(DEADLINE)
        assert sock.getblocking()
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read() == b"hello"


@pytest.mark.parametrize("options", [[], ["--no-verbs"]])
def test_dial(new_router, caller, options):
    """Through a router that gives verdicts, and through one that does not."""
    router = new_router(*options)
    router.echo("d/echo service")
    router.describe("chain", f"{router.address} d/echo service\n")
    for _ in range(20):
        assert echoes(caller.dial(router.address, "d/echo service"))
        assert echoes(caller.dial(router.address, "chain"))


def test_reasons(router, caller):
    """What the router says in words comes as a number."""
    router.describe("loop", f"{router.address} loop\n")
    router.describe("invalid", "a:b:c\n")
    router.backend("dead").close()
    port, holder = closed_port()
    router.describe("closed", f"127.0.0.1:{port}\n")
    with holder:
        assert caller.dial(router.address, "nothing") == "ENOENT"
        assert caller.dial(router.address, ".hidden") == "ENOENT"
        assert caller.dial(router.address, "invalid") == "EBADMSG"
        assert caller.dial(router.address, "dead") == "EHOSTDOWN"
        assert caller.dial(router.address, "closed") == "EHOSTDOWN"
        assert caller.dial(f"127.0.0.1:{port}", "echo") == "ECONNREFUSED"
    assert caller.dial("name.invalid:1", "echo") == "EADDRNOTAVAIL"


def test_reasons_are_those_of_the_router(caller):
    """None is missing in the library."""
    text = (REPOSITORY / "src/proto/reply.c").read_text(encoding="utf-8")
    codes = re.findall(r'case REPLY_\w+:\s+return "([a-z-]+)";', text)
    known = (REPOSITORY / "src/lib/dial.c").read_text(encoding="utf-8")
    assert len(codes) >= 7
    assert [code for code in codes if f'"{code}"' not in known] == []
    assert caller.calls.kaiso_strerror(-errno.ENOENT) == b"no such service"


def test_service_behind_a_unix_listener(new_router, caller):
    """The router may listen on a UNIX socket."""
    router = new_router(start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    router.echo("echo")
    assert echoes(caller.dial(f"unix:{router.root}/listener", "echo"))


@pytest.mark.parametrize("options", [[], ["--no-verbs"]])
def test_list(new_router, caller, options):
    """All, a directory, and none; with kinds where the router tells them."""
    router = new_router(*options)
    assert caller.list(router.address, None) == []
    router.echo("echo")
    router.describe("d/x y", "127.0.0.1:1\n")
    router.describe("d/web", "socket passfd\n")
    tells = not options
    below = [(b"d/web", b"passfd" if tells else b""), (b"d/x y", b"tcp" if tells else b"")]
    assert caller.list(router.address, None) == [*below, (b"echo", b"unix" if tells else b"")]
    for directory in (b"d", b"d/"):
        assert caller.list(router.address, directory) == below
    assert caller.list(router.address, b"nothing") == "ENOENT"


def test_long_list(router, caller):
    """More than any buffer holds."""
    router.echo("echo")
    names = [b"%04d" % number + b"x" * 200 for number in range(2000)]
    for name in names:
        router.link(name.decode(), "echo")
    assert [path for path, _ in caller.list(router.address, None)] == [*names, b"echo"]


@pytest.mark.parametrize("static", [False, True])
def test_client_example(router, library, example, static):
    """It lists, talks, and tells why it cannot."""
    client = library.compile("client", "-std=gnu11", static=static)
    Echo(router, library, example("c-static" if static else "c"))
    assert library.run(client, KAISO=router.address).stdout == b"echo\tpassfd\t\n"
    result = library.run(client, "echo", KAISO=f"kaiso://{router.address}")
    assert re.fullmatch(rb"127\.0\.0\.1 \d+\nhello", result.stdout), result
    result = library.run(client, "nothing", KAISO=router.address)
    assert (result.returncode, result.stderr) == (1, b"client: no such service\n")


# ---- as a library

def test_header(library):
    """Alone, in C as old as it gets, and in C++."""
    for compiler, language, standards in (("cc", "c", ("c89", "c99", "c11")), ("c++", "c++", ("c++98", "c++17"))):
        for standard in standards:
            run(compiler, f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", language,
                library.header)


def test_cplusplus_program(library):
    """Every function is found by its C name."""
    functions = "\n".join(f"(void *){name}," for name in map_names())
    source = library.root / "all.cc"
    source.write_text(f"#include <kaiso.h>\n#include <cstdio>\nstatic void *const all[] = {{\n{functions}\n}};\n"
                      "int main() { return all[0] == nullptr || std::puts(kaiso_version()) < 0; }\n")
    program = library.compile("all", "-std=c++11", compiler="c++", source=source)
    version = library.run(program).stdout.decode().strip()
    assert version == run("pkg-config", "--modversion", library.pc).strip()


def map_names():
    text = (REPOSITORY / "src/lib/libkaiso.map").read_text(encoding="utf-8")
    return re.findall(r"^\t\t(kaiso_\w+);$", text, re.MULTILINE)


def test_exported_symbols(library):
    """Exactly those of the map, with their version; and in the header just these."""
    names = map_names()
    lines = [line.split() for line in run("nm", "-D", "--defined-only", library.shared).splitlines()]
    assert sorted(line[2] for line in lines if line[1] != "A") == sorted(f"{name}@@KAISO_0.1" for name in names)
    header = library.header.read_text(encoding="utf-8")
    declared = re.findall(r"^(?!typedef)[a-z][\w *]*[ *](kaiso_\w+)\(", header, re.MULTILINE)
    assert sorted(declared) == sorted(names)


def test_static_library_has_names_of_its_own(library):
    """It must not clash with what a program calls its own functions."""
    names = {line.split()[2] for line in run("nm", "-g", "--defined-only", library.static).splitlines()
             if len(line.split()) == 3}
    assert set(map_names()) <= names
    assert not [name for name in names if not name.startswith("kaiso_")]


def test_needs_the_c_library_only(library):
    """And is known by its major version."""
    dynamic = run("readelf", "-dW", library.shared)
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) == ["libc.so.6"]
    assert re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) == ["libkaiso.so.0"]


def test_static_library_in_a_dynamic_program(library, router):
    """Without the shared one around."""
    program = library.root / "client-with-a"
    run("cc", "-Wall", "-o", program, EXAMPLES / "client.c", f"-I{library.header.parent}", library.static, "-pthread")
    router.echo("echo")
    result = subprocess.run([program, "echo"], input=b"hello", capture_output=True, timeout=DEADLINE, check=False,
                            env=clean_environment(KAISO=router.address))
    assert result.stdout == b"hello", result
    assert "libkaiso" not in run("readelf", "-dW", program)


def test_examples_are_installed(library):
    """Beside the documentation, each as it is in the source."""
    directory = next((library.root / "dest").rglob("doc/kaiso/examples"))
    for path in EXAMPLES.iterdir():
        assert (directory / path.name).read_bytes() == path.read_bytes()
    assert shutil.which("go"), "the Go example is not to be skipped"
