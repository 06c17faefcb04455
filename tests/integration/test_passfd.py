"""`kaiso passfd`: what a wrapped server sees, and what happens when things go wrong."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from harness.namespaces import public_kaiso
from harness.passfd import MODES, Wrapped, at_once, connect_plain, descendants, free_port, is_alive
from harness.router import KAISO, clean_environment, run_kaiso
from harness.services import bind_unix, connect_unix
from harness.stream import Stream, noise, noise_sum, receive_sum, send_noise
from harness.wait import Task, wait_until

PYTHON = "/usr/bin/python3"
modes = pytest.mark.parametrize("mode", MODES)

# A server in a few lines: `body` runs with a listener on port argv[1]; each test says what it wants to know.
HEAD = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
port = int(sys.argv[1])
def listen(host='127.0.0.1', port=port, backlog=128, family=socket.AF_INET):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(backlog)
    return listener
def say(**what): print(json.dumps(what), flush=True)
def tell(client, peer):
    try: client.sendall(f'{peer[0]}:{peer[1]}\\n'.encode())
    except OSError: pass  # it has looked whether the port is there, and left
def echo(client):
    try:
        while data := client.recv(65536): client.sendall(data)
    except OSError: pass
    client.close()
def serve(listener):
    while True:
        client, peer = listener.accept()
        tell(client, peer)
        echo(client)
"""


def server(router, body, port=None, mode="auto", options=(), **how):
    port = port or free_port()
    return Wrapped(router, [PYTHON, "-c", HEAD + body, port], *options, mode=mode, **how), port


def said(wrapped):
    """The last JSON line of the program's output."""
    lines = [line for line in wrapped.output().splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


def ask(router, text=b"hello", name="web"):
    """One client through the router: who the server takes it for, then an echo."""
    with router.open(name) as stream:
        assert stream.receive_line().decode().strip() == stream.name
        stream.exchange(text)
        stream.end()
        stream.expect_end()


def ask_plainly(port, host="127.0.0.1"):
    with connect_plain(port, host) as stream:
        assert stream.receive_line().decode().strip() == stream.name
        stream.exchange(b"plain")


# ---- what the server sees

LOOK = """
SOCKADDR = 128
def accept4(flags):
    address, length = ctypes.create_string_buffer(SOCKADDR), ctypes.c_uint(SOCKADDR)
    fd = libc.accept4(listener.fileno(), address, ctypes.byref(length), flags)
    return fd, length.value, address.raw[:length.value].hex(), ctypes.get_errno()
listener = listen()
looks = {}
looks['name'] = listener.getsockname()
for name in ('SO_TYPE', 'SO_DOMAIN', 'SO_PROTOCOL', 'SO_ACCEPTCONN', 'SO_ERROR'):
    looks[name] = listener.getsockopt(socket.SOL_SOCKET, getattr(socket, name))
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
listener.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)
looks['state'] = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
listener.listen(5)
listener.setblocking(False)
looks['empty'] = accept4(0)[3]
listener.setblocking(True)
looks['cloexec'] = fcntl.fcntl(listener, fcntl.F_GETFD)
looks['file'] = os.fstat(listener.fileno()).st_mode >> 12
say(**looks)
for flags in (0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
    fd, length, address, _ = accept4(flags)
    client = socket.socket(fileno=fd)
    say(nonblock=bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK), cloexec=fcntl.fcntl(fd, fcntl.F_GETFD),
        length=length, address=address, peer=client.getpeername(), flags=flags)
    client.close()
client = socket.socket(fileno=accept4(0)[0])
short = ctypes.create_string_buffer(4)
length = ctypes.c_uint(4)
libc.getsockname(listener.fileno(), short, ctypes.byref(length))
say(length=length.value, short=short.raw.hex(), bad=[accept4(1)[0], ctypes.get_errno()])
time.sleep(60)
"""


@modes
def test_listener_looks_like_one(router, mode):
    """Names, options and flags are those of a TCP listener; accepted descriptors are as accept4() was asked."""
    wrapped, port = server(router, LOOK, mode=mode)
    wrapped.wait_output("file")
    assert said(wrapped) == {
        "name": ["127.0.0.1", port], "SO_TYPE": socket.SOCK_STREAM, "SO_DOMAIN": socket.AF_INET,
        "SO_PROTOCOL": socket.IPPROTO_TCP, "SO_ACCEPTCONN": 1, "SO_ERROR": 0, "state": 10, "empty": 11, "cloexec": 1,
        "file": 0o14,
    }
    for flags in (0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
        with router.open("web") as stream:
            stream.expect_closed()
            wrapped.wait_output(f'"flags": {flags}}}')
            seen = said(wrapped)
            host, peer_port = stream.sock.getsockname()
            assert seen["nonblock"] == bool(flags & socket.SOCK_NONBLOCK)
            assert seen["cloexec"] == (1 if flags & socket.SOCK_CLOEXEC else 0)
            assert seen["peer"] == [host, peer_port] and seen["length"] == 16
            assert seen["address"] == (socket.AF_INET.to_bytes(2, "little") + peer_port.to_bytes(2, "big") +
                                       socket.inet_aton(host) + bytes(8)).hex()
    router.open("web")
    wrapped.wait_output("short")
    seen = said(wrapped)
    assert seen["length"] == 16 and seen["short"] == "0200" + port.to_bytes(2, "big").hex()
    assert seen["bad"] == [-1, 22]


@modes
@pytest.mark.parametrize("host,v6only", [("::", 0), ("::1", 1)])
def test_ipv6_listener(new_router, mode, host, v6only):
    """A listener for both families gets IPv4 clients v4-mapped, as it would from the kernel."""
    router = new_router(listen=("127.0.0.1:0", "[::1]:0"))
    wrapped, port = server(router, f"""
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, {v6only})
listener.bind(({host!r}, port))
listener.listen()
say(name=listener.getsockname(), v6only=listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
serve(listener)
""", mode=mode)
    wrapped.wait_output("v6only")
    assert said(wrapped) == {"name": [host, port, 0, 0], "v6only": v6only}
    for address in router.addresses:
        with router.open("web", address=address) as stream:
            name = stream.sock.getsockname()
            mapped = name[0] if ":" in name[0] else f"::ffff:{name[0]}"
            assert stream.receive_line().decode() == f"{mapped}:{name[1]}\n"
    with connect_plain(port, "::1") as stream:
        assert stream.receive_line().decode() == f"::1:{stream.sock.getsockname()[1]}\n"


@modes
@pytest.mark.ipv6
def test_both_families(new_router, mode):
    """A program with a listener for each: clients come to the one of their family."""
    router = new_router(listen=("127.0.0.1:0", "[::1]:0"))
    wrapped, port = server(router, """
import select
listeners = [listen(), socket.create_server(('::1', port), family=socket.AF_INET6)]
while True:
    for listener in select.select(listeners, [], [])[0]:
        client, peer = listener.accept()
        client.sendall(f'{listener.family.name} {client.family.name} {peer[0]}:{peer[1]}'.encode())
        client.close()
""", mode=mode)
    wrapped.wait_port(port).wait_port(port, "::1")
    for address, family in zip(router.addresses, ("AF_INET", "AF_INET6")):
        for _ in range(5):
            with router.open("web", address=address) as stream:
                host, number = stream.sock.getsockname()[:2]
                assert stream.receive_all().decode() == f"{family} {family} {host}:{number}"


@modes
def test_unix_client(new_router, mode):
    """A client of a router's UNIX socket has no address; to a TCP server it comes from the loopback, port 0."""
    router = new_router(start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    server(router, "serve(listen())", mode=mode)
    with router.open("web") as stream:
        assert stream.receive_line() == b"127.0.0.1:0\n"
        stream.exchange(b"hello")


@modes
def test_bulk(router, mode):
    """Client and server speak directly, any amount."""
    wrapped, _ = server(router, """
listener = listen()
client, _ = listener.accept()
echo(client)
""", mode=mode)
    stream = router.open("web")
    sending = Task(send_noise, stream, 16 << 20)
    assert receive_sum(stream) == noise_sum(16 << 20)
    sending.join()
    assert wrapped.wait_exit() == 0


@modes
def test_unread_bytes_stay(router, mode):
    """What the client sent behind its line is in the socket."""
    server(router, "listener = listen()\nwhile True: echo(listener.accept()[0])", mode=mode)
    payload = b"\r\n" + noise(50_000)
    stream = router.connect().send(b"web\n" + payload).end()
    assert stream.receive_all() == payload


@modes
def test_thousands_of_clients(router, mode):
    """Whatever each sends comes back to it, checked byte by byte."""
    wrapped, _ = server(router, """
listener = listen()
for _ in range(3): os.fork()
libc.prctl(1, 9)
while True: echo(listener.accept()[0])
""", mode=mode)

    def one(number):
        text = b"%d:" % number + noise(200 + number % 300)
        with router.connect() as stream:
            stream.send(b"web\n" + text).end()
            assert stream.receive_all() == text

    at_once(2000, 20, one)
    wrapped.assert_quiet()


@modes
def test_queue_holds_what_comes(router, mode):
    """A server that is slow to accept: hundreds of clients wait, routers and plain ones, and none is lost."""
    wrapped, port = server(router, """
listener = listen(backlog=1024)
sys.stdin.read(1)
while True:
    client, _ = listener.accept()
    client.sendall(client.recv(100))
    client.close()
""", mode=mode, wrapper=["sh", "-c", "mkfifo gate; exec \"$@\" <>gate", "sh"])
    wrapped.wait_port(port)
    clients = [router.connect().send(b"web\nclient %d" % number) for number in range(500)]
    plain = [connect_plain(port).send(b"plain %d" % number) for number in range(500)]
    router.settle()
    with open(f"{router.root}/gate", "w", encoding="ascii") as gate:
        gate.write("x")
    for number, client in enumerate(clients):
        assert client.receive_all() == b"client %d" % number
        client.close()
    for number, client in enumerate(plain):
        assert client.receive_all() == b"plain %d" % number
        client.close()
    wrapped.assert_quiet()


@modes
def test_client_that_left(router, mode):
    """A client that is reset while it waits is dropped or seen as gone; the next ones are served."""
    wrapped, port = server(router, """
listener = listen()
sys.stdin.read(1)
while True:
    client, peer = listener.accept()
    tell(client, peer)
    echo(client)
""", mode=mode, wrapper=["sh", "-c", "mkfifo gate; exec \"$@\" <>gate", "sh"])
    wrapped.wait_port(port)
    for _ in range(20):
        router.open("web").reset()
        connect_plain(port).reset()
    router.settle()
    with open(f"{router.root}/gate", "w", encoding="ascii") as gate:
        gate.write("x")
    ask(router)
    ask_plainly(port)


@modes
def test_blocking_accept_and_signals(router, mode):
    """A signal interrupts accept() as ever, and no client is lost to it; SO_RCVTIMEO ends it."""
    wrapped, port = server(router, """
hits = 0
def hit(*_):
    global hits
    hits += 1
signal.signal(signal.SIGALRM, hit)
signal.siginterrupt(signal.SIGALRM, True)
listener = listen()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 200000))
assert libc.accept(listener.fileno(), None, None) == -1 and ctypes.get_errno() == errno.EAGAIN
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 0))
signal.setitimer(signal.ITIMER_REAL, 0.1)
assert libc.accept(listener.fileno(), None, None) == -1
assert ctypes.get_errno() == errno.EINTR, ctypes.get_errno()
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
say(ready=True)
while True:
    fd = libc.accept(listener.fileno(), None, None)
    if fd < 0: continue
    os.write(fd, os.read(fd, 100))
    os.close(fd)
""", mode=mode)
    wrapped.wait_output("ready")

    def one(number):
        with router.open("web") as stream:
            stream.send(b"client %d" % number)
            assert stream.receive_all() == b"client %d" % number

    at_once(200, 4, one)


@modes
def test_limit_of_descriptors(router, mode):
    """Where accept() says EMFILE the client stays in the queue, and is served when there is room."""
    wrapped, _ = server(router, """
listener = listen()
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
clients = []
while True:
    try: clients.append(listener.accept()[0])
    except OSError as error:
        assert error.errno == errno.EMFILE
        break
say(accepted=len(clients))
for client in clients: echo(client)
while True: echo(listener.accept()[0])
""", mode=mode)
    clients = [router.connect().send(b"web\nclient %d" % number).end() for number in range(50)]
    assert [client.receive_all() for client in clients] == [b"client %d" % number for number in range(50)]
    assert 0 < said(wrapped)["accepted"] < 20


@modes
def test_round_robin(router, mode):
    """Each of several listeners on one port gets its turn."""
    wrapped, port = server(router, """
for _ in range(3):
    if os.fork() == 0:
        libc.prctl(1, 9)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(('127.0.0.1', port))
        listener.listen()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        say(ready=os.getpid())
        while True:
            client, _ = listener.accept()
            client.sendall(str(os.getpid()).encode())
            client.close()
os.wait()
""", mode=mode)
    wait_until(lambda: wrapped.output().count("ready") == 3, "three workers")
    counts = {}
    for _ in range(30):
        with router.open("web") as stream:
            pid = stream.receive_all()
            counts[pid] = counts.get(pid, 0) + 1
    assert sorted(counts.values()) == [10, 10, 10]
    for _ in range(10):
        with connect_plain(port) as stream:
            assert stream.receive_all() in counts


# ---- which listener

@modes
@pytest.mark.parametrize("length", [40, 90, 107])
def test_unix_listener(router, mode, length):
    """The program's own UNIX listener keeps its name, of any length; its clients have none."""
    path = f"{router.root}/{'n' * (length - len(str(router.root)) - 1)}"
    wrapped, _ = server(router, f"""
listener = socket.socket(socket.AF_UNIX)
listener.bind({path!r})
listener.listen()
say(name=listener.getsockname(), domain=listener.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
while True:
    client, peer = listener.accept()
    client.sendall(repr(peer).encode())
    client.close()
""", mode=mode)
    wrapped.wait_output("domain")
    assert said(wrapped) == {"name": path, "domain": socket.AF_UNIX}
    with router.open("web") as stream:
        assert stream.receive_all() == b"''"
    with Stream(connect_unix(path)) as stream:
        assert stream.receive_all() == b"''"


@modes
def test_unix_listener_beside_tcp(router, mode):
    """A program with both is reached at its TCP listener, whichever comes first."""
    wrapped, port = server(router, f"""
control = socket.socket(socket.AF_UNIX)
control.bind({str(router.root)!r} + '/control')
control.listen()
if os.fork() == 0:
    libc.prctl(1, 9)
    serve(listen())
while True:
    client, _ = control.accept()
    client.sendall(b'control')
    client.close()
""", mode=mode)
    for _ in range(5):
        ask(router)
        with Stream(connect_unix(f"{router.root}/control")) as stream:
            assert stream.receive_all() == b"control"
    ask_plainly(port)
    wrapped.assert_quiet()


@modes
def test_other_ports_stay(router, mode):
    """Only the first port is the server's; the other one is its own."""
    other = free_port()
    wrapped, port = server(router, f"""
first, second = listen(), listen(port={other})
assert socket.socket(fileno=os.dup(second.fileno())).type == socket.SOCK_STREAM
assert b'socket' in os.readlink(f'/proc/self/fd/{{second.fileno()}}').encode()
if os.fork():
    libc.prctl(1, 9)
    serve(first)
while True:
    client, _ = second.accept()
    client.sendall(b'second')
    client.close()
""", mode=mode)
    wrapped.wait_port(port).wait_port(other)
    ask(router)
    ask_plainly(port)
    with connect_plain(other) as stream:
        assert stream.receive_all() == b"second"


@modes
@pytest.mark.parametrize("how", ["{}", "127.0.0.1:{}", ":{}"])
def test_listen_option(router, mode, how):
    """--listen names the port, or address and port."""
    first, second = free_port(), free_port()
    wrapped, _ = server(router, f"decoy = listen(port={first})\nserve(listen(port={second}))", mode=mode,
                        options=["--listen", how.format(second)])
    wrapped.wait_port(second)
    ask(router)
    ask_plainly(second)


@modes
def test_no_tcp(router, mode):
    """--no-tcp: the program's own port is closed to plain clients, but held."""
    wrapped, port = server(router, "serve(listen())", mode=mode, options=["--no-tcp"])
    ask(router)
    with pytest.raises(ConnectionRefusedError):
        connect_plain(port)
    with socket.socket() as sock, pytest.raises(OSError):
        sock.bind(("127.0.0.1", port))
        sock.listen()
    wrapped.end()


@modes
def test_knock(router, mode):
    """`SOCKET passfd:PORT`, which the first kaiso-passfd needs, does no harm: a plain client that leaves at once."""
    wrapped, port = server(router, """
listener = listen()
while True:
    client, peer = listener.accept()
    tell(client, peer)
    echo(client)
""", mode=mode)
    router.describe("web", f".web passfd:{port}\n")
    wrapped.wait_port(port)
    for _ in range(5):
        ask(router)


# ---- the socket

@modes
def test_client_before_listen(router, mode):
    """SOCKET is there before the program listens: clients wait."""
    wrapped, _ = server(router, "sys.stdin.read(1)\nserve(listen())", mode=mode,
                        wrapper=["sh", "-c", "mkfifo gate; exec \"$@\" <>gate", "sh"])
    stream = router.open("web")
    router.settle()
    with open(f"{router.root}/gate", "w", encoding="ascii") as gate:
        gate.write("x")
    assert stream.receive_line().decode().strip() == stream.name
    stream.exchange(b"hello")


@modes
def test_silent_connections(router, mode):
    """Fifty connections that say nothing delay nobody; after a while they are closed."""
    wrapped, port = server(router, "serve(listen())", mode=mode, options=["--silence-timeout", "2s"])
    wrapped.wait_port(port)
    silent = [router.keep(Stream(connect_unix(wrapped.socket_path))) for _ in range(50)]
    for stream in silent:
        assert stream.receive(1) == b"+"
    for _ in range(20):
        ask(router)
    wrapped.assert_quiet()
    for stream in silent:
        stream.expect_end()
    ask(router)  # a router's connection that has sent a client is no silent one


def test_what_is_no_client(router):
    """Whatever else is sent to SOCKET ends that connection and harms nobody."""
    wrapped, port = server(router, "serve(listen())")
    wrapped.wait_port(port)
    with open("/dev/null", "rb") as null, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, \
            socket.socket() as unconnected:
        many = [null.fileno()] * 3
        for data, fds in ((b"hello", []), (b"*", []), (b"+", [null.fileno()]), (b"*", many), (b"\0" * 100, many)):
            with Stream(connect_unix(wrapped.socket_path)) as stream:
                assert stream.receive(1) == b"+"
                socket.send_fds(stream.sock, [data], fds)
                stream.expect_closed()
        for fd in (null, datagram, unconnected):
            with Stream(connect_unix(wrapped.socket_path)) as stream:
                assert stream.receive(1) == b"+"
                socket.send_fds(stream.sock, [b"*"], [fd.fileno()])
                one, other = socket.socketpair()
                socket.send_fds(stream.sock, [b"*"], [other.fileno()])  # the same connection goes on
                other.close()
                with Stream(one) as client:
                    client.receive_line()
                    client.exchange(b"hello")
    wrapped.assert_quiet()


def test_stale_socket_is_replaced(router):
    """The file of a server that was killed is no obstacle."""
    bind_unix(router.path(".web")).close()
    wrapped, port = server(router, "serve(listen())")
    wrapped.wait_port(port)
    ask(router)
    wrapped.end()
    assert not os.path.exists(router.path(".web"))


def test_live_socket_is_left_alone(router):
    """A second server on a live SOCKET fails at once, and the first goes on."""
    server(router, "serve(listen())")
    ask(router)
    done = run_kaiso("passfd", os.fsdecode(router.path(".web")), "--", "echo", "ran")
    assert done.returncode == 1 and done.stdout == b"" and b"already in use" in done.stderr
    ask(router)


def test_what_is_no_socket_is_left_alone(router):
    """Nor is a file."""
    router.describe(".web", "precious")
    done = run_kaiso("passfd", os.fsdecode(router.path(".web")), "--", "echo", "ran")
    assert done.returncode == 1 and done.stdout == b"" and b"no socket" in done.stderr
    with open(router.path(".web"), "rb") as file:
        assert file.read() == b"precious"


@modes
def test_long_path(router, mode):
    """SOCKET paths of any length."""
    directory = "/".join(["d" * 100] * 4)
    router.mkdir(directory)
    wrapped, _ = server(router, "serve(listen())", mode=mode, socket_path=f"{router.services}/{directory}/socket")
    router.describe("web", f"{directory}/socket passfd\n")
    ask(router)
    wrapped.end()
    assert not os.path.exists(wrapped.socket_path)


# ---- beginnings and ends

@modes
def test_exit_status(mode):
    """The program's own, by signals too."""
    with_socket = ["passfd", "--mode", mode, f"/tmp/kaiso-{os.getpid()}.sock", "--"]
    assert run_kaiso(*with_socket, "sh", "-c", "exit 7").returncode == 7
    assert run_kaiso(*with_socket, "sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL
    assert run_kaiso(*with_socket, "/nonexistent/program").returncode == 127
    assert run_kaiso(*with_socket, "/etc/passwd").returncode == 126
    done = run_kaiso(*with_socket, "cat", "/proc/self/comm", cwd="/")
    assert done.stdout == b"cat\n" and done.stderr == b""
    # The helper that removes it may outlive the program by a moment.
    wait_until(lambda: not os.path.exists(with_socket[3]), "SOCKET to be removed")


def test_usage(router):
    """Mistakes end with status 2 and a word about the way out."""
    for words in (["passfd"], ["passfd", "sock"], ["passfd", "--listen", "x", "sock", "true"], ["passfd", "--bogus"],
                  ["passfd", "--mode", "magic", "sock", "true"], ["passfd", "--listen", "0", "sock", "true"],
                  ["passfd", "--silence-timeout", "5", "sock", "true"]):
        done = run_kaiso(*words, cwd=router.root)
        assert done.returncode == 2 and done.stderr.startswith(b"kaiso passfd: "), (words, done)
    assert run_kaiso("passfd", "--help").stdout.startswith(b"Usage: kaiso passfd")
    done = run_kaiso("passfd", "/nonexistent/socket", "--", "true")
    assert done.returncode == 1 and b"no such directory" in done.stderr


@modes
def test_program_is_killed(router, mode):
    """SIGKILL of the program: the tool ends by the same signal, SOCKET and helper are gone."""
    wrapped, _ = server(router, "serve(listen())", mode=mode)
    ask(router)
    processes = descendants(wrapped.pid)
    os.kill(wrapped.server, signal.SIGKILL)
    assert wrapped.wait_exit() == -signal.SIGKILL
    assert not os.path.exists(wrapped.socket_path)
    wait_until(lambda: not any(is_alive(pid) for pid in processes), "all to end")
    client = router.open("web")
    client.expect_closed()
    router.wait_session(client, reason="unavailable")


@modes
def test_program_with_a_child_is_killed(router, mode):
    """A child of it that lives on, without the listener, does not keep SOCKET."""
    wrapped, _ = server(router, """
import subprocess
child = subprocess.Popen(['sleep', '1000'])
serve(listen())
""", mode=mode)
    ask(router)
    os.kill(wrapped.server, signal.SIGKILL)
    assert wrapped.wait_exit() == -signal.SIGKILL
    assert not os.path.exists(wrapped.socket_path)


@modes
@pytest.mark.parametrize("who", ["helper", "tool"])
def test_helper_is_killed(router, mode, who):
    """SIGKILL of the helper: the whole server ends, prefork workers too. Of the tool: as if it hit the program."""
    wrapped, port = server(router, """
listener = listen()
for _ in range(3):
    if os.fork() == 0: serve(listener)
while True:
    try: os.wait()
    except ChildProcessError: time.sleep(60)
""", mode=mode)
    wrapped.wait_port(port)
    wait_until(lambda: len(descendants(wrapped.pid)) == 6, "all processes")
    ask(router)
    processes = [wrapped.pid, wrapped.server] if who == "tool" else descendants(wrapped.pid)
    workers = descendants(wrapped.server)[1:]
    os.kill(wrapped.pid if who == "tool" else wrapped.helper, signal.SIGKILL)
    wrapped.wait_exit()
    wait_until(lambda: not any(is_alive(pid) for pid in processes),
               lambda: f"{processes} to end: {[pid for pid in processes if is_alive(pid)]}\n{wrapped.output()}")
    if who == "tool":
        ask(router)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in workers), "the workers to end")


@modes
def test_unprivileged(router, mode):
    """No privilege is needed."""
    os.chmod(router.services, 0o777)
    wrapped, port = server(router, "serve(listen())", mode=mode, user="nobody", kaiso=public_kaiso(router.root))
    ask(router)
    ask_plainly(port)
    assert os.stat(wrapped.socket_path).st_uid != 0
    wrapped.end()


@modes
def test_few_descriptors(router, mode):
    """The helper itself at a low limit: it takes fewer connections at a time, and loses none."""
    wrapped, _ = server(router, "serve(listen())", mode=mode, options=["--silence-timeout", "1s"],
                        wrapper=["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"])
    ask(router)
    silent = [router.keep(Stream(connect_unix(wrapped.socket_path))) for _ in range(25)]
    for _ in range(20):
        ask(router)
    for stream in silent:
        assert stream.receive_all() == b"+"
    wrapped.assert_quiet()


def compile_c(router, name, source, *options):
    path = f"{router.root}/{name}"
    with open(f"{path}.c", "w", encoding="ascii") as file:
        file.write(source)
    subprocess.run(["gcc", *options, "-o", path, f"{path}.c"], check=True, capture_output=True)
    return path


@modes
def test_refused_programs(router, mode):
    """32-bit and set-uid programs are refused, static ones under preload, and nothing is run."""
    socket_path = os.fsdecode(router.path(".web"))
    start = 'void _start(void) { __asm__ volatile("int $0x80" :: "a"(1), "b"(0)); }'
    narrow = compile_c(router, "narrow", start, "-m32", "-nostdlib", "-static", "-ffreestanding")
    plain = compile_c(router, "plain", "int main(void) { return 0; }")
    privileged = f"{router.root}/privileged"
    shutil.copy(plain, privileged)
    os.chmod(privileged, 0o4755)
    static = compile_c(router, "static", "int main(void) { return 0; }", "-static")
    for program, is_refused in ((plain, False), (narrow, True), (privileged, True), (static, mode == "preload")):
        done = run_kaiso("passfd", "--mode", mode, socket_path, "--", program)
        assert done.returncode == (126 if is_refused else 0), (program, done)
        assert bool(done.stderr) == is_refused, done.stderr
        assert not os.path.exists(socket_path)


# ---- the first kaiso's form

def first_form(router, *words, **how):
    return Wrapped(router, words[2:], command=[os.path.join(os.path.dirname(KAISO), "kaiso-passfd"), *words[:2]], **how)


def test_first_form(router):
    """kaiso-passfd FD SOCKET PROGRAM: the descriptor is not needed."""
    port = free_port()
    first_form(router, "3", os.fsdecode(router.path(".web")), PYTHON, "-c", HEAD + "serve(listen())", port)
    ask(router)
    ask_plainly(port)


def test_first_form_with_empty_socket(router):
    """An empty SOCKET: the program's own UNIX listener is the SOCKET."""
    path = os.fsdecode(router.path(".web"))
    router.describe("web", ".web passfd\n")
    wrapped = first_form(router, "5", "", "socat", f"UNIX-LISTEN:{path},fork", "EXEC:cat", socket_path=path)
    wait_until(lambda: os.path.exists(path), "the program's own socket")
    for _ in range(20):
        with router.open("web") as stream:
            stream.exchange(b"hello").end()
            stream.expect_end()
    with Stream(connect_unix(path)) as stream:
        assert stream.receive(1) == b"+"
    wrapped.end()


def test_trace(router):
    """FD 0 and an empty SOCKET: what the program does with sockets, line by line."""
    path = f"{router.root}/own"
    wrapped = first_form(router, "0", "", "socat", f"UNIX-LISTEN:{path},fork", "SYSTEM:echo hello",
                         awaits_socket=False)
    wrapped.wait_output("bind 5 = 0")
    assert wrapped.output() == "socket unix TCP 0 = 5\nbind 5 = 0\n"
    with Stream(connect_unix(path)) as stream:
        assert stream.receive_all() == b"hello\n"
    wrapped.wait_output("accept 5 = 6\n")
    done = subprocess.run([os.path.join(os.path.dirname(KAISO), "kaiso-passfd"), "0", "", PYTHON, "-c", """
import socket, sys
for words in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM), (99, 1), (socket.AF_NETLINK, 3)):
    try: socket.socket(*words)
    except OSError: pass
s = socket.socket()
try: s.bind(('192.0.2.1', 80))
except OSError: pass
try: s.accept()
except OSError: pass
sys.exit(7)
"""], capture_output=True, env=clean_environment(), check=False)
    assert done.returncode == 7
    assert done.stderr.decode() == (
        "socket IPv4 TCP 0 = 3\nsocket IPv6 UDP 0 = 3\nsocket other TCP 0 = -1\nsocket netlink other 0 = 3\n"
        "socket IPv4 TCP 0 = 3\nbind 3 = -1\naccept 3 = -1\n")
    assert subprocess.run([os.path.join(os.path.dirname(KAISO), "kaiso-passfd"), "0", "", "/nonexistent"],
                          capture_output=True, check=False).returncode == 127


# ---- both at once

@modes
@pytest.mark.parametrize("order", ["passfd-inject", "inject-passfd"])
def test_with_inject(router, mode, order):
    """A server that is reached through kaiso, and reaches another service through kaiso."""
    router.service("backend", lambda stream: stream.send(b"from the backend\n"))
    passfd = [KAISO, "passfd", "--mode", mode, os.fsdecode(router.path(".web")), "--"]
    inject = [KAISO, "inject", "--mode", mode, router.address, "backend", "--"]
    host, port = router.address.split(":")
    command = passfd + inject if order == "passfd-inject" else inject + passfd
    wrapped = Wrapped(router, [PYTHON, "-c", HEAD + f"""
listener = listen()
while True:
    client, _ = listener.accept()
    behind = socket.create_connection(({host!r}, {port}))
    client.sendall(behind.makefile().readline().encode())
    client.close()
""", free_port()], command=command)
    for _ in range(20):
        with router.open("web") as stream:
            assert stream.receive_all() == b"from the backend\n"
    wrapped.end()
