"""Service paths: which are refused, and that length and depth are no limit (the protocol, "Paths", section 2)."""

import os
import socket

import pytest

from harness.services import Backend, bind_unix, make_directories

REFUSED = [
    "/foo", "//foo", "/", "//", "d//foo", "foo//", "d//", "/d/",
    ".", "..", "./foo", "../services/foo", "d/./foo", "d/../foo", "d/..", "d/.", "./", "../", "d/../", "d/./",
    ".hid", "/.hid", "d/.hid", "d/../.hid", "d//.hid", ".h/s", ".h/", "d/.h/s", ".h/../foo", "...", ".../foo",
    "..foo", "d/.h/deeper/s", ".kaisofoo",
    "f\x01oo", "f\x1foo", "foo\x7f", "f\too", "d\x01/foo", "f\x1b[2Joo",
]


@pytest.mark.parametrize("path", REFUSED)
def test_refused_paths(router, path):
    """Empty components, ., .., hidden names at whatever depth, a leading slash, control bytes: as if not there."""
    backends = []
    for name in ("foo", ".hid", "d/foo", "d/.hid", ".h/s", "d/.h/s", "d/.h/deeper/s", ".../foo", "..foo", ".kaisofoo",
                 "f\x01oo", "f\x1foo", "foo\x7f", "f\too", "d\x01/foo", "f\x1b[2Joo"):
        backends.append(router.backend(name))
    client = router.open(path)
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    for backend in backends:
        backend.assert_untouched()


@pytest.mark.parametrize("path", ["foo", "d/foo", "d/e/f/g", "a.b", "a..", "d/x.", "~", "-", "--help", "d/-", "*",
                                  "%00", "a\\b", "a:b", "{}", "two words", "d x/e y/f z",
                                  "\u00fcber/\u65e5\u672c\u8a9e", "\U0001f980"])
def test_accepted_paths(router, path):
    """Everything else is opaque bytes: spaces and UTF-8, dots behind the first byte, what shells would mind."""
    backend = router.backend(path)
    router.open(path).send(b"x").end()
    assert backend.accept().receive_all() == b"x"


def test_nothing_at_the_path(router):
    """No such name, no such directory, a service as a directory: all the same close."""
    backend = router.backend("foo")
    router.describe("text", "127.0.0.1:9\n")
    router.mkdir("d")
    for path in ("bar", "d/bar", "e/bar", "foo/bar", "text/bar", "f", "fooo"):
        client = router.open(path)
        client.expect_closed()
        router.wait_session(client, reason="not-found", service=path)
    backend.assert_untouched()


def test_directory_by_its_plain_name(router):
    """A directory gives nothing by its plain name."""
    router.backend("d/foo")
    client = router.open("d")
    client.expect_closed()
    router.wait_session(client, reason="not-found")


def test_anything_else_gives_nothing(router):
    """A FIFO, a device, a datagram socket: nothing, and nobody is held up (opening a FIFO would block)."""
    os.mkfifo(router.path("fifo"))
    router.link("null", "/dev/null")
    router.link("zero", "/dev/zero")
    router.keep(bind_unix(router.path("datagram"), kind=socket.SOCK_DGRAM))
    router.echo("foo")
    for path in ("fifo", "null", "zero", "datagram"):
        router.open(path).expect_closed()
    router.open("foo").exchange(b"hello")


def test_dead_socket(router):
    """A socket file that nobody listens on: closed, reason unavailable."""
    router.backend("foo").close()
    client = router.open("foo")
    client.expect_closed()
    router.wait_session(client, reason="unavailable")


def test_links(router):
    """A symbolic link is what it leads to, inside the directory or outside, hidden targets too."""
    router.echo(".hidden/real")
    router.echo("plain")
    outside = router.root / "outside"
    outside.mkdir()
    backend = router.keep(Backend(bind_unix(outside / "away")))
    router.link("to-plain", "plain")
    router.link("to-hidden", ".hidden/real")
    router.link("d/up", "../plain")
    router.link("chain", "to-plain")
    router.link("sub", ".hidden")
    router.link("absolute", outside / "away")
    router.link("directory", outside)
    for path in ("to-plain", "to-hidden", "d/up", "chain", "sub/real"):
        router.open(path).exchange(path.encode())
    for path in ("absolute", "directory/away"):
        router.open(path).send(b"x").end()
        assert backend.accept().receive_all() == b"x"


def test_links_that_lead_nowhere(router):
    """Dangling links and links in a circle: not there."""
    router.link("dangling", "nowhere")
    router.link("circle", "circle")
    router.link("one", "two")
    router.link("two", "one")
    for path in ("dangling", "circle", "one", "two"):
        client = router.open(path)
        client.expect_closed()
        router.wait_session(client, reason="not-found")


def test_link_to_a_description(router):
    """A link to a description is that description, its paths still relative to the services directory."""
    router.echo("foo")
    (router.root / "outside").write_text("foo\n")
    router.link("d/elsewhere", router.root / "outside")
    router.open("d/elsewhere").exchange(b"hello")


@pytest.mark.parametrize("length", [100, 106, 107, 108, 109, 200, 255])
def test_long_names(router, length):
    """The 107 bytes of a socket address are no limit: one name of any length a file system knows."""
    name = "n" * length
    router.echo(name)
    router.open(name).exchange(b"hello")


def test_socket_paths_around_107_bytes(router):
    """The whole path of the socket passes 107 bytes at each of its lengths in turn."""
    base = len(os.fsencode(router.services)) + 1
    for total in range(105, 112):
        name = "p" * (total - base)
        router.echo(name)
        router.open(name).exchange(name.encode())


def test_deep_path(router):
    """A path of 4000 bytes and more, in 2000 components."""
    path = "/".join("d" * 2040)
    router.echo(path)
    client = router.open(path).exchange(b"hello")
    client.end().expect_end()
    router.wait_session(client, reason="done")


def test_long_path_in_a_deep_directory(new_router):
    """The services directory's own path counts as little."""
    router = new_router(start=False)
    deep = str(router.root) + "/" + "/".join(["x" * 200] * 10)
    os.close(make_directories(deep))
    router.services_argument = deep
    router.services = deep
    router.start()
    path = "/".join(["y" * 250] * 15)
    router.echo(path)
    router.open(path).exchange(b"hello")
    assert router.list() == path.encode() + b"\r\n\r\n"


def test_checked_is_connected(router):
    """A name that is turned from one service to another and back: each client gets what it means at the time."""
    one = router.service("one", lambda stream: stream.send(b"1"))
    two = router.service("two", lambda stream: stream.send(b"2"))
    router.link("now", "one")
    answers = set()
    for count in range(60):
        passing = router.path(".passing")
        os.symlink("two" if count % 2 else "one", passing)
        os.rename(passing, router.path("now"))
        with router.open("now") as client:
            answer = client.receive_all()
        assert answer == (b"2" if count % 2 else b"1"), "the answer is that of an older link"
        answers.add(answer)
    assert answers == {b"1", b"2"} and one.accepted == two.accepted == 30
