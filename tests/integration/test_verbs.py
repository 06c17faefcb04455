"""Words for tools: lines that begin with .kaiso/ (the protocol, section 4)."""

import re

import pytest

from harness.services import closed_port


def expect_refusal(client, code):
    """`-CODE TEXT` CRLF and the end."""
    line = client.receive_line()
    assert re.fullmatch(rb"-%s [ -~]*[!-~]\r\n" % code.encode(), line), line
    client.expect_closed()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_version(router, end):
    """`kaiso VERSION` CRLF, and the connection stays open."""
    router.echo("foo")
    client = router.connect()
    for _ in range(2):
        assert re.fullmatch(rb"kaiso [0-9][!-~]*\r\n", client.line(".kaiso/version", end).receive_line())
    assert client.line("").receive_list() == b"foo\r\n\r\n"
    client.line("foo").exchange(b"hello")


def test_version_then_end_of_file(router):
    """The answer comes whole all the same."""
    client = router.connect().send(b".kaiso/version\n.kaiso/version\n").end()
    assert re.fullmatch(rb"(kaiso [^\r\n]*\r\n){2}", client.receive_all())


def _populate(router):
    router.backend("unix")
    router.backend("d/socket")
    router.describe("d/tcp", "127.0.0.1:9\n")
    router.describe("described", "unix\n")
    router.describe("chain", "127.0.0.1:9 foo\n")
    router.describe("pass", "unix passfd\n")
    router.describe("pass-knock", "unix passfd:80\n")
    router.link("link", "d/tcp")
    router.link("link-socket", "unix")
    router.backend(".hidden")
    router.link("dangling", "nowhere")


DETAILED = (b"chain\tkaiso\t\r\nd/socket\tunix\t\r\nd/tcp\ttcp\t\r\ndescribed\tunix\t\r\nlink\ttcp\t\r\n"
            b"link-socket\tunix\t\r\npass\tpassfd\t\r\npass-knock\tpassfd\t\r\nunix\tunix\t\r\n\r\n")


def test_detailed_list(router):
    """One line a service: path, kind and about, separated by tabs; then an empty line."""
    _populate(router)
    client = router.connect()
    assert client.line(".kaiso/list").receive_list() == DETAILED
    assert client.line(".kaiso/list d/", b"\n").receive_list() == b"d/socket\tunix\t\r\nd/tcp\ttcp\t\r\n\r\n"
    assert client.line("d/").receive_list() == b"d/socket\r\nd/tcp\r\n\r\n"
    client.line(".kaiso/open chain")
    expect_refusal(client, "unavailable")


def test_detailed_list_names_what_the_plain_one_does(router):
    """The same services in the same order, but for those whose broken description tells no kind."""
    _populate(router)
    router.describe("broken", "a:b:c\n")
    plain = router.list().split(b"\r\n")
    assert plain.pop(0) == b"broken"
    detailed = router.list(".kaiso/list").split(b"\r\n")
    assert [line.split(b"\t")[0] for line in detailed] == plain


def test_detailed_list_of_nothing(router):
    """An empty directory is an empty line; one that is not there closes."""
    router.mkdir("empty")
    client = router.connect()
    assert client.line(".kaiso/list").receive_list() == b"\r\n"
    assert client.line(".kaiso/list empty/").receive_list() == b"\r\n"
    client.line(".kaiso/list nothing/").expect_closed()
    for line in (".kaiso/list .h/", ".kaiso/list /", ".kaiso/list ../", ".kaiso/list empty", ".kaiso/list  empty/"):
        router.open(line).expect_closed()


def test_detailed_list_then_end_of_file(router):
    """As with the plain list."""
    _populate(router)
    client = router.connect().send(b".kaiso/list\r\n").end()
    assert client.receive_all() == DETAILED


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_open(router, end):
    """`+` CRLF, then the service, whole from its first byte."""
    backend = router.backend("a b/c")
    client = router.connect().send(b".kaiso/open a b/c" + end + b"\r\npipelined")
    peer = backend.accept()
    peer.send(b"greeting")
    assert client.receive(11) == b"+\r\ngreeting"
    client.end()
    assert peer.receive_all() == b"\r\npipelined"
    peer.close()
    client.expect_end()
    router.wait_session(client, reason="done", service="a b/c", sent=11)


def test_open_of_every_kind(router):
    """The answer comes when the service is connected, whatever kind it is."""
    router.echo("unix")
    router.describe("described", "unix\n")
    router.describe("chain", f"{router.address} unix\n")
    for name in ("unix", "described", "chain"):
        client = router.open(f".kaiso/open {name}")
        assert client.receive(3) == b"+\r\n"
        client.exchange(b"hello")


def test_open_of_a_service_that_closes_at_once(router):
    """The answer is whole, then the end."""
    router.service("foo", lambda stream: None)
    for _ in range(30):
        client = router.open(".kaiso/open foo")
        assert client.receive_all() == b"+\r\n"


@pytest.mark.parametrize("path", ["nothing", "d", "d/nothing", "d/", "foo/", ".hid", "/foo", "../foo", "d//foo",
                                  "foo\x01", "dangling", ".kaiso/version", " foo"])
def test_open_not_found(router, path):
    """What is not there and what no client may name."""
    backend = router.backend("foo")
    router.backend("d/foo")
    router.backend(".hid")
    router.link("dangling", "nowhere")
    client = router.open(f".kaiso/open {path}")
    expect_refusal(client, "not-found")
    router.wait_session(client, reason="not-found")
    backend.assert_untouched()


def test_open_unavailable(router):
    """Nobody listens behind it: a dead socket, a closed port, a socket path without a socket."""
    router.backend("dead").close()
    port, holder = closed_port()
    router.describe("closed", f"127.0.0.1:{port}\n")
    router.describe("absent", "no/socket\n")
    with holder:
        for path in ("dead", "closed", "absent"):
            client = router.open(f".kaiso/open {path}")
            expect_refusal(client, "unavailable")
            router.wait_session(client, reason="unavailable", service=path)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_open_timeout(new_router, kind):
    """Nobody answers within the connect timeout: the service's backlog stays full."""
    router = new_router("--connect-timeout", "200ms")
    backend = router.backend("foo", backlog=1) if kind == "unix" else router.backend_tcp("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.open(".kaiso/open foo")
    expect_refusal(client, "timeout")
    router.wait_session(client, reason="timeout")
    for filler in fillers:
        filler.close()


def test_open_limit(new_router):
    """Over a limit of requests."""
    router = new_router("--max-requests-per-second", "1")
    router.echo("foo")
    for _ in range(20):
        client = router.open(".kaiso/open foo")
        line = client.receive_line()
        if line != b"+\r\n":
            break
    assert re.fullmatch(rb"-limit [^\r\n]+\r\n", line)
    client.expect_closed()
    router.wait_session(client, reason="limit")


def test_open_invalid(router):
    """Its description is wrong."""
    router.describe("bad", "a:b:c\n")
    client = router.open(".kaiso/open bad")
    expect_refusal(client, "invalid")
    router.wait_session(client, reason="invalid", service="bad")


def test_open_loop(router):
    """It leads back to itself."""
    router.describe("self", router.address)
    client = router.open(".kaiso/open self")
    assert client.receive(3) == b"+\r\n"
    client.line(".kaiso/open self")
    expect_refusal(client, "loop")


def test_refusal_with_bytes_behind_the_line(router):
    """A client that sends its first data along still learns the code."""
    for _ in range(20):
        client = router.connect().send(b".kaiso/open nothing\r\n" + b"data" * 100)
        expect_refusal(client, "not-found")


def test_refusal_then_end_of_file(router):
    """And so does one that has already ended its direction."""
    client = router.connect().send(b".kaiso/open nothing\r\n").end()
    assert client.receive_all().startswith(b"-not-found ")


@pytest.mark.parametrize("line", [".kaiso/", ".kaiso", ".kaiso/nothing", ".kaiso/versions", ".kaiso/version x",
                                  ".kaiso/VERSION", ".kaiso/open", ".kaiso//version", " .kaiso/version", ".kaiso/list x"])
def test_other_words(router, line):
    """Nothing else behind .kaiso/ means anything: closed, as the first kaiso does."""
    client = router.open(line)
    client.expect_closed()
    router.wait_session(client)


@pytest.mark.parametrize("line", [".kaiso/version", ".kaiso/list", ".kaiso/list d/", ".kaiso/open foo",
                                  ".kaiso/open x", ".kaiso/x"])
def test_no_verbs(new_router, line):
    """`--no-verbs` turns all of it off: a hidden path like any other."""
    router = new_router("--no-verbs")
    backend = router.backend("foo")
    router.backend("d/foo")
    client = router.open(line)
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    backend.assert_untouched()
    assert router.list("d/") == b"d/foo\r\n\r\n"
