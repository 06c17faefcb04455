"""`kaiso expose`: services of a kaiso on plain ports and UNIX sockets.

The kaiso behind is our router, a first kaiso (played), or the test itself, which then sees every byte.
"""

import http.server
import os
import signal
import socket
import subprocess

import pytest

from harness.exposer import Exposer, FirstKaiso, is_silent
from harness.namespaces import unshared
from harness.router import run_kaiso
from harness.services import Backend, bind_tcp, bind_unix, closed_port, echo
from harness.stream import noise, noise_sum, receive_sum, send_noise
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

BULK = (16 if IS_SANITIZED else 64) << 20
ANSWER = 4 << 20
REASONS = ["not-found", "denied", "unavailable", "timeout", "limit", "invalid", "loop"]


@pytest.fixture
def new_exposer(new_router):
    """Makes exposers: new_exposer(kaiso, service, listen, …, **see Exposer)."""

    def make(kaiso, *pairs, **how):
        return new_router(kaiso, *pairs, kind=Exposer, **how)

    return make


@pytest.fixture
def kaiso(router):
    """A kaiso whose connections the test accepts, to answer them itself."""
    return router.backend_tcp()


@pytest.fixture
def exposer(kaiso, new_exposer):
    """Offers that kaiso's "foo"; waits for it not too long."""
    return new_exposer(kaiso.address, "foo", "127.0.0.1:0")


def accept_asked(kaiso, line=b".kaiso/open foo\r\n"):
    """The next connection to the kaiso, and its one line read."""
    peer = kaiso.accept()
    assert peer.receive_line() == line
    return peer


def settle(exposer, kaiso):
    """Returns when the exposer has dealt with everything sent before: it comes round with one client more."""
    with exposer.client() as client:
        peer = accept_asked(kaiso)
    peer.send(b"-not-found settled\r\n").expect_end()
    exposer.wait_session(client, reason="not-found")


def opened(exposer, kaiso):
    """A client and its peer, past the verdict."""
    client = exposer.client()
    peer = accept_asked(kaiso).send(b"+\r\n")
    return client, peer


# ---- our router behind

@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0", ":0", "unix:/"])
def test_listeners(router, new_exposer, tmp_path, listen):
    """Port 0 takes a free port, of each address that the word stands for; the log says which."""
    router.echo("foo")
    listen = listen.replace("unix:/", f"unix:{tmp_path}/sock")
    exposer = new_exposer(router.address, "foo", listen)
    assert not any(address.endswith(":0") for address in exposer.addresses)
    for address in exposer.addresses:
        client = exposer.connect(address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"))
        client.exchange(b"hello").exchange(noise(300_000)).end().expect_end()
        exposer.wait_session(client, service="foo", kind="kaiso", target=router.address, reason="done",
                             mode="relay", sent=300_005, received=300_005)
    router.wait_log(len(exposer.addresses), msg="session", service="foo", reason="done", sent="300005")


def test_unix_listener_leaves_no_file(router, new_exposer, tmp_path):
    """The socket file is there while it listens; a stale one is no obstacle."""
    router.echo("foo")
    path = tmp_path / ("deep" * 30) / "sock"
    path.parent.mkdir()
    bind_unix(str(path)).close()
    exposer = new_exposer(router.address, "foo", f"unix:{path}")
    exposer.client().exchange(b"hello").close()
    exposer.stop()
    assert not path.exists()


@pytest.mark.parametrize("form", ["{host}:{port}", "localhost:{port}", "kaiso://{host}:{port}",
                                  "kaiso://{host}:{port}/", ":{port}"])
def test_words_for_the_kaiso(router, new_exposer, form):
    """Numbers, a name, a URL without a service, this host."""
    router.echo("foo")
    host, _, port = router.address.partition(":")
    exposer = new_exposer(form.format(host=host, port=port), "foo", "127.0.0.1:0")
    exposer.client().exchange(b"hello").end().expect_end()


@pytest.mark.parametrize("listen", ["[::1]:0", "unix:"])
@pytest.mark.parametrize("is_url", [False, True])
def test_kaiso_elsewhere(new_router, new_exposer, tmp_path, listen, is_url):
    """A kaiso by IPv6, and by a UNIX socket (relative to the working directory, too)."""
    if listen == "unix:":
        listen = f"unix:{tmp_path}/kaiso"
    router = new_router(listen=(listen,))
    router.echo("foo")
    where = router.address
    if is_url:
        where = "unix:kaiso" if where.startswith("unix:") else f"kaiso://{where}"
    exposer = new_exposer(where, "foo", "127.0.0.1:0", cwd=tmp_path)
    client = exposer.client().exchange(noise(100_000)).end()
    client.expect_end()
    exposer.wait_session(client, reason="done", target=where.removeprefix("kaiso://"))
    router.wait_log(msg="session", service="foo", reason="done")


@pytest.mark.ipv6
def test_several_pairs(router, new_exposer, tmp_path):
    """Each listener leads to its own service, also one that stands for two sockets."""
    for name in ("a", "b c", "d/é"):
        router.service(name, lambda stream, name=name: stream.send(name.encode()))
    exposer = new_exposer(router.address, "a", "127.0.0.1:0", "b c", ":0", "d/é", f"unix:{tmp_path}/sock",
                          "a", "[::1]:0")
    assert len(exposer.addresses) == 5
    expected = ["a", "b c", "b c", "d/é", "a"]
    for address, name in zip(exposer.addresses, expected):
        client = exposer.connect(address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"))
        assert client.receive_all() == name.encode()
        client.end()
    exposer.wait_log(5, msg="session", reason="done")
    assert sorted(line["service"] for line in exposer.log.find(msg="session")) == sorted(expected)


def test_lists(router, new_exposer):
    """No service at all is the list, and the client speaks to the kaiso from then on; DIR/ is that directory's."""
    router.echo("a")
    router.echo("d/b")
    exposer = new_exposer(router.address, "", "127.0.0.1:0", "d/", "127.0.0.1:0")
    client = exposer.client(0)
    assert client.receive_list() == b"a\r\nd/b\r\n\r\n"
    client.line("").line("d/b")
    assert client.receive_list() == b"a\r\nd/b\r\n\r\n"
    client.exchange(b"hello").end().expect_end()
    client = exposer.client(1).end()
    assert client.receive_all() == b"d/b\r\n\r\n"
    exposer.wait_session(client, service="d/", reason="done")


@pytest.mark.parametrize("length", [4001, 4082, 4083, 4094])
def test_long_paths(router, new_exposer, length):
    """A path that leaves no room for the word is asked for without it; all that fit a line work."""
    name = ("x" * 199 + "/") * 20
    name += "y" * (length - len(name))
    router.echo(name)
    exposer = new_exposer(router.address, name, "127.0.0.1:0")
    exposer.client().exchange(b"hello").end().expect_end()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:"])
@pytest.mark.parametrize("make", ["ours", "first"])
def test_bulk_both_ways_at_once(router, new_exposer, tmp_path, listen, make):
    """With checksums, ended by half-closes."""
    backend = router.backend("foo")
    where = router.address
    if make == "first":
        backend = router.backend_tcp()
        first = router.keep(FirstKaiso({b"foo": lambda stream: pipe_to(stream, backend)}))
        where = first.address
    exposer = new_exposer(where, "foo", f"unix:{tmp_path}/sock" if listen == "unix:" else listen)
    client = exposer.client()
    peer = backend.accept()
    tasks = [Task(send_noise, client, BULK), Task(send_noise, peer, BULK),
             Task(receive_sum, client), Task(receive_sum, peer)]
    results = [task.join() for task in tasks]
    assert results[2:] == [noise_sum(BULK)] * 2
    exposer.wait_session(client, reason="done", sent=BULK, received=BULK)


def pipe_to(stream, backend):
    """A played kaiso's relay, both ways."""
    with socket.create_connection(backend.listener.getsockname()) as other:
        upwards = Task(copy, stream.sock, other)
        copy(other, stream.sock)
        upwards.join()


def copy(source, sink):
    source.settimeout(None)
    while chunk := source.recv(1 << 18):
        sink.sendall(chunk)
    sink.shutdown(socket.SHUT_WR)


@pytest.fixture(params=["tcp", "unix"])
def far(request, router, new_exposer, tmp_path):
    """(exposer, backend): a service behind router and exposer, by each kind of listener."""
    listen = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/sock"
    backend = router.backend_tcp("foo")
    return new_exposer(router.address, "foo", listen), backend


def test_client_ends_first(far):
    """Half-close: the service sees the end and can still answer, however much."""
    exposer, backend = far
    client = exposer.client().send(b"request").end()
    peer = backend.accept()
    assert peer.receive_all() == b"request"
    sending = Task(send_noise, peer, ANSWER)
    assert receive_sum(client) == noise_sum(ANSWER)
    sending.join()
    exposer.wait_session(client, reason="done", sent=7, received=ANSWER)


def test_service_ends_first(far):
    """And the other way round."""
    exposer, backend = far
    client = exposer.client()
    peer = backend.accept().send(b"greeting").end()
    assert client.receive_all() == b"greeting"
    sending = Task(send_noise, client, ANSWER)
    assert receive_sum(peer) == noise_sum(ANSWER)
    sending.join()
    exposer.wait_session(client, reason="done", sent=ANSWER, received=8)


def test_reset_by_the_client(router, new_exposer):
    """A reset goes all the way."""
    backend = router.backend_tcp("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0")
    client = exposer.client().send(b"hello")
    peer = backend.accept()
    assert peer.receive(5) == b"hello"
    client.reset()
    peer.expect_reset()
    exposer.wait_session(client, reason="client-reset")


def test_reset_by_the_service(router, new_exposer):
    """And back, behind what was said before it."""
    backend = router.backend_tcp("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0")
    client = exposer.client()
    peer = backend.accept().send(b"an answer")
    assert client.receive(9) == b"an answer"
    peer.reset()
    client.expect_reset()
    exposer.wait_session(client, reason="service-reset")


def test_curl(router, new_exposer, tmp_path):
    """`curl --unix-socket`, and plainly, with many requests and a large body."""
    (tmp_path / "page").write_bytes(noise(2_000_000))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = Task(server.serve_forever, 0.02)
    try:
        router.describe("web", f"127.0.0.1:{server.server_port}\n")
        exposer = new_exposer(router.address, "web", f"unix:{tmp_path}/sock", "web", "127.0.0.1:0")
        for words in (["--unix-socket", f"{tmp_path}/sock", "http://localhost/page"],
                      [f"http://{exposer.addresses[1]}/page"]):
            for _ in range(5):
                result = subprocess.run(["curl", "-q", "-sS", "--noproxy", "*", *words], capture_output=True,
                                        timeout=DEADLINE, check=True)
                assert result.stdout == noise(2_000_000)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_reasons_of_our_router(new_router, new_exposer):
    """The client is closed without a byte; the exposer's log says why."""
    router = new_router("--connect-timeout", "200ms")
    port, holder = closed_port()
    router.keep(holder)
    router.describe("down", f"127.0.0.1:{port}\n")
    router.describe("bad", "a:b:c\n")
    full = router.backend("full", backlog=1)
    fillers = full.fill_backlog()
    expected = {"nothing": "not-found", "down": "unavailable", "bad": "invalid", "full": "timeout"}
    pairs = [word for name in expected for word in (name, "127.0.0.1:0")]
    exposer = new_exposer(router.address, *pairs)
    for number, (name, reason) in enumerate(expected.items()):
        client = exposer.client(number)
        client.expect_end()
        exposer.wait_session(client, service=name, reason=reason, sent=0, received=0)
    for filler in fillers:
        filler.close()


def test_limit_of_our_router(new_router, new_exposer):
    """Its limit is told as a limit, and the next attempt goes through when it may."""
    router = new_router("--max-requests-per-second", "1", "--threads", "1")
    router.echo("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0")
    exposer.client().exchange(b"hello").close()
    client = exposer.client()
    client.expect_end()
    exposer.wait_session(client, reason="limit")

    def is_served():
        with exposer.client() as again:
            try:
                return again.send(b"hello").sock.recv(5) == b"hello"
            except (ConnectionResetError, BrokenPipeError):
                return False

    wait_until(is_served, "the limit to let one through")


def test_router_without_words(new_router, new_exposer):
    """--no-verbs closes the connection on the word, as the first kaiso does."""
    router = new_router("--no-verbs")
    router.echo("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0")
    for _ in range(3):
        exposer.client().exchange(b"hello").end().expect_end()
    assert len(router.log.find(msg="session", service=".kaiso/open foo")) <= 1


# ---- a first kaiso behind

@pytest.fixture(params=["fin", "rst"])
def first(request, router):
    """A first kaiso with an echo service "foo"; it closes by FIN or by RST."""
    return router.keep(FirstKaiso({b"foo": echo}, is_resetting=request.param == "rst"))


def test_first_kaiso(first, new_exposer):
    """Asked once by the word, then silently as ever; what it is is remembered."""
    exposer = new_exposer(first.address, "foo", "127.0.0.1:0")
    for count in range(5):
        client = exposer.client()
        client.exchange(b"hello %d" % count).exchange(noise(200_000)).end().expect_end()
        exposer.wait_session(client, reason="done", sent=200_007, received=200_007)
    assert first.lines == [b".kaiso/open foo\r\n"] + [b"foo\r\n"] * 5


def test_first_kaiso_with_early_data(first, new_exposer):
    """What the client said and ended while the word was tried comes behind the path, whole and in order."""
    exposer = new_exposer(first.address, "foo", "127.0.0.1:0")
    client = exposer.client().send(b"\r\n").send(noise(50_000)).end()
    assert client.receive_all() == b"\r\n" + noise(50_000)
    exposer.wait_session(client, reason="done", sent=50_002, received=50_002)


def test_first_kaiso_without_the_service(first, new_exposer):
    """Closed without a word by it, closed without a byte by us."""
    exposer = new_exposer(first.address, "nothing", "127.0.0.1:0")
    for _ in range(2):
        client = exposer.client()
        client.expect_closed()
        client.close()
    exposer.wait_log(2, msg="session", service="nothing", received="0")
    assert first.lines == [b".kaiso/open nothing\r\n"] + [b"nothing\r\n"] * 2


def test_first_kaiso_list(first, new_exposer):
    """A list is never asked for by the word."""
    exposer = new_exposer(first.address, "", "127.0.0.1:0")
    client = exposer.client()
    assert client.receive_list() == b"foo\r\n\r\n"
    client.line("foo").exchange(b"hello").end().expect_end()
    assert first.lines == [b"\r\n", b"foo\r\n"]


def test_first_kaiso_by_a_unix_socket(router, new_exposer, tmp_path):
    """The same at a UNIX socket."""
    first = router.keep(FirstKaiso({b"foo": echo}, unix_path=str(tmp_path / "kaiso")))
    exposer = new_exposer(f"unix:{tmp_path}/kaiso", "foo", "127.0.0.1:0")
    for _ in range(3):
        exposer.client().exchange(b"hello").end().expect_end()
    assert first.lines == [b".kaiso/open foo\r\n"] + [b"foo\r\n"] * 3


def test_first_kaiso_burst(first, new_exposer):
    """Many clients at once, before anything is known."""
    exposer = new_exposer(first.address, "foo", "127.0.0.1:0", options=("--threads", "2"))
    clients = [exposer.client().send(b"client %02d" % count) for count in range(50)]
    for count, client in enumerate(clients):
        assert client.receive(9) == b"client %02d" % count
        client.end().expect_end()


# ---- the test behind: every byte on the wire

def test_nothing_before_the_verdict(exposer, kaiso):
    """The line, and not one byte of the client behind it until the kaiso has agreed."""
    client = exposer.client().send(b"\r\nearly")
    peer = accept_asked(kaiso)
    settle(exposer, kaiso)
    assert is_silent(peer) and is_silent(client)
    peer.send(b"+\r\n")
    assert peer.receive(7) == b"\r\nearly"
    settle(exposer, kaiso)
    assert is_silent(client)
    peer.send(b"an answer")
    assert client.receive(9) == b"an answer"
    client.end()
    peer.expect_end()
    peer.close()
    client.expect_end()
    exposer.wait_session(client, reason="done", sent=7, received=9)


def test_verdict_byte_by_byte(exposer, kaiso):
    """In as many segments as bytes; LF alone ends it as well."""
    for verdict in (b"+\r\n", b"+\n"):
        client = exposer.client().send(b"early")
        peer = accept_asked(kaiso)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in verdict:
            assert is_silent(peer)
            peer.send(bytes([byte]))
            settle(exposer, kaiso)
        assert peer.receive(5) == b"early"
        peer.send(b"x")
        assert client.receive(1) == b"x"


@pytest.mark.parametrize("answer", [b"x", b"\r\n", b"+\r\n", b"\n+", b"-not-found x\r\n", noise(100_000)],
                         ids=lambda answer: repr(answer[:16]))
def test_verdict_and_service_in_one_segment(exposer, kaiso, answer):
    """Exactly the verdict's line is taken; what stands behind it is the service's, like a verdict or not."""
    client = exposer.client()
    peer = accept_asked(kaiso).send(b"+\r\n" + answer)
    assert client.receive(len(answer)) == answer
    client.send(b"request")
    assert peer.receive(7) == b"request"


def test_verdict_service_and_end_at_once(exposer, kaiso):
    """The kaiso says all that it has and ends its direction before the exposer looks."""
    client = exposer.client()
    peer = accept_asked(kaiso)
    exposer.signal(signal.SIGSTOP)
    try:
        peer.send(b"+\r\nall of it").end()
    finally:
        exposer.signal(signal.SIGCONT)
    assert client.receive_all() == b"all of it"
    client.send(b"still heard").end()
    assert peer.receive_all() == b"still heard"
    exposer.wait_session(client, reason="done", sent=11, received=9)


def test_client_half_closed_before_the_verdict(exposer, kaiso):
    """The end comes behind the bytes, once there is somebody to tell."""
    client = exposer.client().send(b"request").end()
    peer = accept_asked(kaiso)
    settle(exposer, kaiso)
    peer.send(b"+\r\n")
    assert peer.receive_all() == b"request"
    peer.send(b"answer").end()
    assert client.receive_all() == b"answer"
    exposer.wait_session(client, reason="done")


def test_much_before_the_verdict(exposer, kaiso):
    """A client that sends before the verdict is held back, not buffered without bound, and loses nothing."""
    client = exposer.client()
    peer = accept_asked(kaiso)
    sending = Task(send_noise, client, ANSWER)
    settle(exposer, kaiso)
    assert is_silent(peer)
    peer.send(b"+\r\n")
    assert receive_sum(peer) == noise_sum(ANSWER)
    sending.join()


@pytest.mark.parametrize("code", REASONS)
@pytest.mark.parametrize("form", [b"-%s a reason for people\r\n", b"-%s\n", b"-%s x\r\nmore that nobody reads"])
def test_refusals(exposer, kaiso, code, form):
    """Each code of the protocol is the session's reason; the client gets no byte."""
    client = exposer.client().send(b"request")
    peer = accept_asked(kaiso).send(form % code.encode())
    client.expect_end()
    peer.expect_closed()
    line = exposer.wait_session(client, reason=code, sent=0, received=0)
    assert line.get("limit") is None, "the limit was the kaiso's, none of ours"


def test_refusal_of_another_version(exposer, kaiso):
    """A code that is not known here is still a refusal."""
    client = exposer.client()
    accept_asked(kaiso).send(b"-full-moon come back tomorrow\r\n")
    client.expect_end()
    exposer.wait_session(client, reason="unavailable")


@pytest.mark.parametrize("answer", [b"\r\n", b"\n", b"++\r\n", b"+ \r\n", b"-\r\n", b" +\r\n", b"HTTP/1.1 400 Bad Request\r\n",
                                    b"+\r\r\n", b"\0\0\0\n", b"x" * 128, b"x" * 100_000, b"+" + b"\r" * 200 + b"\n"],
                         ids=lambda answer: f"{len(answer)}-{answer[:16]!r}")
def test_garbage_for_a_verdict(exposer, kaiso, answer):
    """Something that is no kaiso: refused, with a warning, and nothing of it reaches the client."""
    client = exposer.client()
    peer = accept_asked(kaiso)
    try:
        peer.send(answer)
    except (ConnectionResetError, BrokenPipeError):
        pass  # it had read enough
    client.expect_end()
    exposer.wait_session(client, reason="unavailable", received=0)
    exposer.wait_log(level="warning", service="foo", target=kaiso.address)


def test_end_inside_a_verdict(exposer, kaiso):
    """A verdict that is cut off is none, and no first kaiso either: it is not asked again."""
    client = exposer.client()
    accept_asked(kaiso).send(b"+").end()
    client.expect_end()
    exposer.wait_session(client, reason="unavailable")
    kaiso.assert_untouched()


def test_verdict_that_never_comes(kaiso, new_exposer):
    """The connect timeout holds for it; also while bytes drip."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0",
                          options=("--threads", "1", "--connect-timeout", "300ms"))
    for drip in (b"", b"-not-fou"):
        client = exposer.client().send(b"request")
        peer = accept_asked(kaiso).send(drip)
        client.expect_end()
        peer.expect_closed()
        exposer.wait_session(client, reason="timeout")
    client, peer = opened(exposer, kaiso)
    with exposer.client() as later:  # once it has timed out, a deadline that was left armed would have come as well
        accept_asked(kaiso).expect_closed()
        exposer.wait_session(later, reason="timeout")
    client.send(b"still here")
    assert peer.receive(10) == b"still here"


# ---- a kaiso that is away, or goes

def test_kaiso_down(new_exposer, router):
    """The client is closed, the log says why, and the next attempt works once the kaiso is there."""
    port, holder = closed_port()
    exposer = new_exposer(f"127.0.0.1:{port}", "foo", "127.0.0.1:0")
    for _ in range(3):
        client = exposer.client()
        client.expect_end()
        exposer.wait_session(client, reason="unavailable", service="foo", target=f"127.0.0.1:{port}")
    assert exposer.log.find(level="warning", service="foo", error="Connection refused")
    holder.close()
    kaiso = router.keep(Backend(bind_tcp(port=port)))
    client, peer = opened(exposer, kaiso)
    client.send(b"hello")
    assert peer.receive(5) == b"hello"
    peer.close()
    client.close()
    kaiso.close()
    client = exposer.client()
    client.expect_end()
    exposer.wait_session(client, reason="unavailable")


def test_kaiso_down_at_a_unix_socket(new_exposer, router, tmp_path):
    """No file, a dead socket, something else in its place; then the kaiso."""
    path = tmp_path / "kaiso"
    exposer = new_exposer(f"unix:{path}", "foo", "127.0.0.1:0")
    for make in (lambda: None, lambda: bind_unix(str(path)).close(), path.unlink, lambda: path.write_bytes(b"")):
        make()
        client = exposer.client()
        client.expect_end()
        exposer.wait_session(client, reason="unavailable")
    path.unlink()
    kaiso = router.keep(Backend(bind_unix(str(path))))
    client, peer = opened(exposer, kaiso)
    peer.send(b"hello")
    assert client.receive(5) == b"hello"


def test_name_without_address(new_exposer, tmp_path):
    """A name that nobody has is looked up when a client comes; it is no missing service. (In a network of its own,
    without name servers; so the client comes by a UNIX socket.)"""
    exposer = new_exposer("no-such-host.invalid:1", "foo", f"unix:{tmp_path}/sock",
                          options=("--connect-timeout", "5s"), wrapper=unshared("net"))
    client = exposer.client()
    client.expect_end()
    line = exposer.wait_log(msg="session", service="foo", target="no-such-host.invalid:1")
    assert line["reason"] in ("unavailable", "timeout")


def test_kaiso_restarts(new_router, new_exposer):
    """A router that is replaced by another on the same port."""
    router = new_router()
    router.echo("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0")
    exposer.client().exchange(b"one").end().expect_end()
    address, services = router.address, router.services
    router.signal(signal.SIGTERM)
    assert router.wait_exit() == 0
    exposer.client().expect_end()
    new_router(listen=(address,), services=services)
    exposer.client().exchange(b"two").end().expect_end()


def test_kaiso_goes_while_it_is_asked(exposer, kaiso):
    """It closes on the word and is gone when it is asked plainly."""
    client = exposer.client().send(b"request")
    peer = accept_asked(kaiso)
    kaiso.listener.close()
    peer.close()
    client.expect_end()
    exposer.wait_session(client, reason="unavailable")


def test_kaiso_goes_in_the_second_attempt(exposer, kaiso):
    """It closes on the plain line, too: the client's end, and no third attempt."""
    for is_resetting in (False, True):
        client = exposer.client()
        peer = kaiso.accept()
        if not is_resetting:  # afterwards it is known
            assert peer.receive_line() == b".kaiso/open foo\r\n"
            peer.close()
            peer = kaiso.accept()
        assert peer.receive_line() == b"foo\r\n"
        if is_resetting:
            peer.reset()
            client.expect_reset()
        else:
            peer.close()
            client.expect_end()
        client.close()
        exposer.wait_session(client)
        kaiso.assert_untouched()


def test_kaiso_goes_in_mid_session(exposer, kaiso):
    """By a close and by a reset, as the router passes them on."""
    client, peer = opened(exposer, kaiso)
    peer.send(b"the last words").close()
    assert client.receive_all() == b"the last words"
    client.close()
    exposer.wait_session(client, reason="done")
    client, peer = opened(exposer, kaiso)
    peer.send(b"the last words")
    assert client.receive(14) == b"the last words"
    peer.reset()
    client.expect_reset()
    exposer.wait_session(client, reason="service-reset")


def test_reset_right_behind_the_verdict(exposer, kaiso):
    """A reset that comes with the verdict is not taken for an end, nor for a first kaiso."""
    client = exposer.client()
    peer = accept_asked(kaiso)
    exposer.signal(signal.SIGSTOP)
    try:
        peer.send(b"+\r\n").reset()
    finally:
        exposer.signal(signal.SIGCONT)
    client.expect_reset()
    exposer.wait_session(client, reason="service-reset")
    kaiso.assert_untouched()


def test_kaiso_that_does_not_answer(router, new_exposer):
    """A full backlog: the connect timeout, then the reason."""
    kaiso = router.backend_tcp(backlog=0)
    for filler in kaiso.fill_backlog():
        router.keep(filler)
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--connect-timeout", "200ms"))
    client = exposer.client()
    client.expect_end()
    exposer.wait_session(client, reason="timeout")


# ---- a client that goes

def test_client_goes_while_the_kaiso_is_dialled(router, new_exposer):
    """The dial is given up when the client was reset."""
    kaiso = router.backend_tcp(backlog=0)
    for filler in kaiso.fill_backlog():
        router.keep(filler)
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0")
    clients = [exposer.client() for _ in range(20)]
    for client in clients:
        client.reset()
    for client in clients:
        exposer.wait_session(client, reason="client-reset")
    exposer.wait_fds_back()
    exposer.assert_quiet()


@pytest.mark.parametrize("is_late", [False, True])
def test_client_goes_while_the_verdict_is_awaited(exposer, kaiso, is_late):
    """The connection to the kaiso is closed at once; a verdict that comes then has nobody."""
    clients = [exposer.client().send(b"request") for _ in range(20)]
    peers = [accept_asked(kaiso) for _ in clients]
    for client in clients:
        client.reset()
    for client in clients:
        exposer.wait_session(client, reason="client-reset")
    for peer in peers:
        if is_late:
            try:
                peer.send(b"+\r\nhello")
            except (ConnectionResetError, BrokenPipeError):
                pass
        peer.expect_closed()
    exposer.wait_fds_back()


def test_unix_client_goes_while_the_verdict_is_awaited(kaiso, new_exposer, tmp_path):
    """A close of a UNIX client is no reset: the service gets what it had sent, and its end."""
    exposer = new_exposer(kaiso.address, "foo", f"unix:{tmp_path}/sock")
    client = exposer.client().send(b"request")
    client.close()
    peer = accept_asked(kaiso).send(b"+\r\n")
    assert peer.receive_all() == b"request"
    peer.send(b"an answer for nobody").close()
    exposer.wait_log(msg="session", client="unix", sent="7")


def test_client_goes_in_the_second_attempt(router, new_exposer):
    """Between the word and the plain line."""
    kaiso = router.backend_tcp(backlog=0)
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0")
    client = exposer.client()
    peer = accept_asked(kaiso)
    for filler in kaiso.fill_backlog():
        router.keep(filler)
    peer.close()
    wait_until(lambda: exposer.fds()["socket"] == exposer.fds_when_ready["socket"] + 2, "the second dial")
    client.reset()
    exposer.wait_session(client, reason="client-reset")
    exposer.wait_fds_back()


# ---- limits and time

def test_max_sessions(kaiso, new_exposer):
    """One too many is closed at once; when one ends there is room again."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--threads", "1", "--max-sessions", "2"))
    first, first_peer = opened(exposer, kaiso)
    opened(exposer, kaiso)
    third = exposer.client()
    third.expect_closed()
    exposer.wait_session(third, reason="limit", limit="max-sessions")
    first.end()
    first_peer.close()
    exposer.wait_session(first, reason="done")
    opened(exposer, kaiso)


def test_max_sessions_per_address(kaiso, new_exposer):
    """Counted by the client's address, not by the kaiso's."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--max-sessions-per-address", "1"))
    opened(exposer, kaiso)
    client = exposer.client()
    client.expect_closed()
    exposer.wait_session(client, reason="limit")
    exposer.client(source="127.0.0.2")
    accept_asked(kaiso)


def test_descriptors_run_out(router, new_exposer):
    """Clients beyond them are closed with a reason, those within are unharmed, and nothing spins."""
    router.echo("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0", options=("--threads", "1", "--max-sessions", "1000"),
                          wrapper=("prlimit", "--nofile=64:64"))
    clients = [exposer.client() for _ in range(60)]
    served = []
    for client in clients:
        try:
            client.send(b"hello")
            if client.sock.recv(5) == b"hello":
                served.append(client)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert 8 <= len(served) < 32
    exposer.wait_log(msg="session", reason="limit", limit="descriptors")
    exposer.assert_quiet()
    for client in served:
        client.exchange(noise(100_000))
    for client in clients:
        client.close()
    wait_until(lambda: len(exposer.log.find(msg="session", reason="done")) >= len(served), "the sessions to end")
    exposer.client().exchange(b"again").end().expect_end()


def test_idle_timeout(kaiso, new_exposer):
    """Nothing moves: both sides are closed."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--idle-timeout", "300ms"))
    client, peer = opened(exposer, kaiso)
    client.send(b"hello")
    assert peer.receive(5) == b"hello"
    client.expect_closed()
    peer.expect_closed()
    exposer.wait_session(client, reason="idle-timeout", sent=5)


# ---- signals

def is_refused(exposer):
    try:
        exposer.client().close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nobody_is_connected(exposer, number):
    """Exit code 0."""
    exposer.signal(number)
    assert exposer.wait_exit() == 0
    assert is_refused(exposer)


def test_drains_in_every_phase(exposer, kaiso):
    """Clients that were accepted get their service still, wherever they stand."""
    relayed, relayed_peer = opened(exposer, kaiso)
    waiting = exposer.client().send(b"request")
    waiting_peer = accept_asked(kaiso)
    plain = exposer.client().send(b"request")
    plain_peer = accept_asked(kaiso)
    settle(exposer, kaiso)
    exposer.signal(signal.SIGTERM)
    wait_until(lambda: is_refused(exposer), "the listener to close")
    waiting_peer.send(b"+\r\n")
    plain_peer.close()
    plain_peer = accept_asked(kaiso, b"foo\r\n")
    for client, peer in ((waiting, waiting_peer), (plain, plain_peer)):
        assert peer.receive(7) == b"request"
        peer.send(b"answer").close()
        assert client.receive_all() == b"answer"
        client.close()
        exposer.wait_session(client, reason="done")
    assert exposer.process.poll() is None
    relayed.send(b"more")
    assert relayed_peer.receive(4) == b"more"
    relayed.end()
    relayed_peer.close()
    assert exposer.wait_exit() == 0


@pytest.mark.parametrize("options, again", [(("--drain-timeout", "300ms"), False), (("--drain-timeout", "1h"), True)])
def test_drain_ends(kaiso, new_exposer, options, again):
    """After the drain timeout, or a second signal: every session with reason shutdown, exit code 0."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--threads", "1", *options))
    clients = [opened(exposer, kaiso)[0], exposer.client()]
    accept_asked(kaiso)
    exposer.signal(signal.SIGTERM)
    exposer.wait_log(msg="draining")
    if again:
        exposer.signal(signal.SIGINT)
    for client in clients:
        client.expect_closed()
    assert exposer.wait_exit() == 0
    for client in clients:
        exposer.wait_session(client, reason="shutdown")
    line = exposer.wait_log(msg="stopped")
    assert line["shutdown"] == "2"


def test_harmless_signals(exposer, kaiso):
    """SIGHUP and SIGPIPE end nothing."""
    client, peer = opened(exposer, kaiso)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        exposer.signal(number)
    settle(exposer, kaiso)
    client.send(b"hello")
    assert peer.receive(5) == b"hello"


def test_counts(exposer, kaiso):
    """The last line counts what became of the sessions."""
    for answer in (b"-not-found\r\n", b"-not-found\r\n", b"nonsense\r\n"):
        client = exposer.client()
        accept_asked(kaiso).send(answer)
        client.expect_end()
    exposer.wait_log(3, msg="session")
    exposer.stop()
    line = exposer.wait_log(msg="stopped")
    assert (line["not-found"], line["unavailable"], line["refused"]) == ("2", "1", "0")


@pytest.mark.parametrize("form", ["tcp", "unix"])
def test_exposes_itself(new_exposer, tmp_path, form):
    """A kaiso that is the exposer's own listener: refused as a loop, not followed until descriptors run out."""
    if form == "unix":
        where = f"unix:{tmp_path}/sock"
    else:
        with bind_tcp() as chosen:
            where = f"127.0.0.1:{chosen.getsockname()[1]}"
    exposer = new_exposer(where, "foo", where)
    client = exposer.client().send(b"hello")
    client.expect_closed()
    client.close()
    exposer.wait_log(msg="session", reason="loop")
    exposer.wait_fds_back()
    exposer.assert_quiet()
    assert len(exposer.log.find(msg="session")) < 1000


# ---- words

def test_help():
    """On standard output, exit code 0; only options that it has."""
    for words in (["expose", "--help"], ["expose", "-h"]):
        result = run_kaiso(*words)
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"Usage: kaiso expose [OPTIONS] KAISO SERVICE LISTEN" in result.stdout
        for option in (b"--threads", b"--connect-timeout", b"--idle-timeout", b"--drain-timeout", b"--max-sessions",
                       b"--log-level", b"--log-format", b"--relay-up", b"--request-timeout"):
            assert option in result.stdout
        for option in (b"--services", b"--no-verbs", b"--max-lists"):
            assert option not in result.stdout
    assert run_kaiso("expose", "--version").stdout.startswith(b"kaiso ")


@pytest.mark.parametrize("words, named", [
    ([], "KAISO"), (["127.0.0.1:1"], "KAISO"), (["127.0.0.1:1", "foo"], "LISTEN"),
    (["127.0.0.1:1", "foo", "127.0.0.1:0", "bar"], "pairs"),
    (["127.0.0.1:x", "foo", "127.0.0.1:0"], "127.0.0.1:x"), (["127.0.0.1:65536", "foo", "127.0.0.1:0"], "65536"),
    (["127.0.0.1:0", "foo", "127.0.0.1:0"], "127.0.0.1:0"),
    (["unix:", "foo", "127.0.0.1:0"], "unix:"), (["", "foo", "127.0.0.1:0"], "''"),
    (["kaiso://127.0.0.1:1/bar", "foo", "127.0.0.1:0"], "kaiso://127.0.0.1:1/bar"),
    (["127.0.0.1:1", ".hidden", "127.0.0.1:0"], ".hidden"), (["127.0.0.1:1", "/foo", "127.0.0.1:0"], "/foo"),
    (["127.0.0.1:1", "a//b", "127.0.0.1:0"], "a//b"), (["127.0.0.1:1", "/", "127.0.0.1:0"], "'/'"),
    (["127.0.0.1:1", "a/../b/", "127.0.0.1:0"], "a/../b/"), (["127.0.0.1:1", "a\nb", "127.0.0.1:0"], "service"),
    (["127.0.0.1:1", "ok", "127.0.0.1:0", ".kaiso/version", "127.0.0.1:0"], ".kaiso/version"),
    (["127.0.0.1:1", "x" * 5000, "127.0.0.1:0"], "xxx"), (["127.0.0.1:1", "x" * 4095, "127.0.0.1:0"], "xxx"),
    (["127.0.0.1:1", "x" * 4094 + "/", "127.0.0.1:0"], "xxx"),
    (["127.0.0.1:1", "foo", "127.0.0.1"], "127.0.0.1"), (["127.0.0.1:1", "foo", "127.0.0.1:99999"], "99999"),
    (["127.0.0.1:1", "foo", "unix:"], "unix:"), (["127.0.0.1:1", "foo", ""], "port"),
    (["127.0.0.1:1", "foo", "127.0.0.1:0", "bar", "nonsense"], "nonsense"),
    (["--services", "/tmp", "127.0.0.1:1", "foo", "127.0.0.1:0"], "services"),
    (["--no-verbs", "127.0.0.1:1", "foo", "127.0.0.1:0"], "no-verbs"),
    (["--connect-timeout", "x", "127.0.0.1:1", "foo", "127.0.0.1:0"], "--connect-timeout"),
    (["--threads", "0", "127.0.0.1:1", "foo", "127.0.0.1:0"], "--threads"),
], ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")
def test_usage_errors(words, named):
    """Exit code 2; the mistake is named, and no terminal is written to with control bytes."""
    result = run_kaiso("expose", *words)
    assert (result.returncode, result.stdout) == (2, b""), result.stderr
    assert named.encode() in result.stderr, result.stderr
    assert result.stderr.count(b"\n") <= 2, result.stderr


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "unix:/nonexistent/directory/socket"])
def test_cannot_listen(listen):
    """Exit code 1, one line, the address named."""
    result = run_kaiso("expose", "127.0.0.1:1", "foo", "127.0.0.1:0", "foo", listen)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert listen.encode() in result.stderr


def test_port_in_use(tmp_path):
    """The pairs before it leave nothing behind."""
    with bind_tcp() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run_kaiso("expose", "127.0.0.1:1", "foo", f"unix:{tmp_path}/sock", "foo", address)
    assert result.returncode == 1 and address.encode() in result.stderr
    assert os.listdir(tmp_path) == []


def test_ready_line(exposer, kaiso):
    """Says where it listens and which kaiso it offers; no services directory."""
    line = exposer.wait_log(msg="ready")
    assert line["listen"] == exposer.address and line["kaiso"] == kaiso.address
    assert line.get("services") is None


def test_form_of_the_first_kaiso(router, new_exposer):
    """kaiso-expose KAISO SERVICE LISTEN"""
    router.echo("foo")
    exposer = new_exposer(router.address, command=[router.address, "foo", "127.0.0.1:0"],
                          wrapper=("bash", "-c", 'exec -a kaiso-expose "$0" "$@"'))
    exposer.client().exchange(b"hello").end().expect_end()


def test_log_as_json(kaiso, new_exposer):
    """--log-format and --log-level are the router's."""
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=("--log-format", "json"))
    client = exposer.client()
    accept_asked(kaiso).send(b"-denied no\r\n")
    client.expect_end()
    exposer.wait_session(client, reason="denied")
    assert all(raw.startswith(b"{") for raw in exposer.log.raw)


# ---- many

def test_thousand_sessions(router, new_exposer):
    """At once, each with its own bytes; afterwards no descriptor is left."""
    count = 200 if IS_SANITIZED else 1000
    backend = router.backend("foo", backlog=4096)
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0", options=())
    clients = [exposer.client().send(b"%06d" % number) for number in range(count)]
    peers = {}
    for _ in clients:
        peer = backend.accept()
        number = int(peer.receive(6))
        peers[number] = peer.send(b"to %06d" % number)
    for number, client in enumerate(clients):
        assert client.receive(9) == b"to %06d" % number
    assert exposer.fds()["socket"] >= 2 * count
    exposer.assert_quiet()
    for number, client in enumerate(clients):
        client.end()
        peers[number].expect_end()
        peers[number].close()
        client.expect_end()
        client.close()
    exposer.wait_fds_back()
    router.wait_fds_back()


@pytest.mark.threads
def test_all_outcomes_on_all_threads(new_router, new_exposer, tmp_path):
    """Many clients at once: served, refused, listed, reset, towards both makes of kaiso."""
    router = new_router("--threads", "2")
    router.echo("echo")
    first = router.keep(FirstKaiso({b"echo": echo}, is_resetting=True))
    options = ("--threads", "4")
    ours = new_exposer(router.address, "echo", "127.0.0.1:0", "nothing", "127.0.0.1:0", "", f"unix:{tmp_path}/sock",
                       options=options)
    theirs = new_exposer(first.address, "echo", "127.0.0.1:0", "nothing", "127.0.0.1:0", options=options)

    def talk(number):
        for turn in range(15):
            kind = (number + turn) % 6
            exposer = (ours, theirs)[(number + turn) % 2]
            client = ours.client(2) if kind == 0 else exposer.client(1 if kind == 1 else 0)
            if kind == 0:
                assert client.receive_list() == b"echo\r\n\r\n"
            elif kind == 1:
                client.expect_closed()
            elif kind == 2:
                client.send(noise(50_000)).reset()
            elif kind == 3:
                client.reset()
            else:
                client.exchange(noise(40_000)).end().expect_end()
            client.close()

    for task in [Task(talk, number) for number in range(8)]:
        task.join()
    for exposer in (ours, theirs):
        exposer.wait_fds_back()
        exposer.assert_quiet()


@pytest.mark.threads
def test_ends_under_load(router, new_exposer):
    """Signals while clients come and go on all threads."""
    router.echo("foo")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0", options=("--threads", "4", "--drain-timeout", "200ms"))

    def talk():
        try:
            while True:
                with exposer.client() as client:
                    client.exchange(noise(10_000))
        except (OSError, AssertionError):
            return

    tasks = [Task(talk) for _ in range(6)]
    exposer.wait_log(100, msg="session")
    exposer.signal(signal.SIGTERM)
    assert exposer.wait_exit() == 0
    for task in tasks:
        task.join()
