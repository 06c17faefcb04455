"""The list: its exact form, what it shows, and that it holds up nobody (the protocol, "The list")."""

import os
import socket

import pytest

from harness.services import Backend, bind_unix
from harness.stream import fill
from harness.wait import IS_SANITIZED, Task, wait_until


def populate(router, names):
    """Fast services: links to one description each thousand or so (a file has a limited number of names)."""
    sources = []
    for index, name in enumerate(names):
        if index % 20_000 == 0:
            sources.append(str(router.root / f"source-{index}"))
            with open(sources[-1], "w", encoding="ascii") as file:
                file.write("127.0.0.1:9\n")
        os.link(sources[-1], os.path.join(str(router.services), name))


def as_list(names):
    return b"".join((name.encode() if isinstance(name, str) else name) + b"\r\n" for name in names) + b"\r\n"


def test_empty_directory(router):
    """An empty directory lists as CRLF alone."""
    assert router.list() == b"\r\n"


def test_one_service(router):
    """One service as foo CRLF CRLF, and the connection stays open."""
    router.echo("foo")
    client = router.connect().line("")
    assert client.receive(7) == b"foo\r\n\r\n"
    client.line("foo").exchange(b"x")


def test_session_that_only_listed(router):
    """A connection that only asked for lists and ended cleanly."""
    client = router.connect().send(b"\r\n\r\n").end()
    assert client.receive_all() == b"\r\n\r\n"
    router.wait_session(client, reason="listed")


def test_order(router):
    """Depth first, each directory's names in byte order: bytes unsigned, a directory where its own name stands."""
    names = ["a/z", "a!", "a-b", "a/b/c", "a/b!", "B", "b", "\u00e9", "z", "Z/1", "0", "a b", "~"]
    for name in names:
        router.describe(name, "127.0.0.1:9\n")
    assert router.list() == as_list(
        ["0", "B", "Z/1", "a/b/c", "a/b!", "a/z", "a b", "a!", "a-b", "b", "z", "~", "\u00e9"])


def test_kinds(router):
    """Sockets, descriptions, and links to either; not FIFOs, devices, links that lead nowhere."""
    router.backend("socket")
    router.backend("d/socket")
    router.describe("description", "127.0.0.1:9\n")
    router.link("link-socket", "socket")
    router.link("link-description", "d/../description")
    router.link("link-link", "link-socket")
    router.link("link-dangling", "nowhere")
    router.link("link-circle", "link-circle")
    router.link("link-null", "/dev/null")
    router.link("link-fifo", "fifo")
    router.mkdir("empty")
    os.mkfifo(router.path("fifo"))
    assert router.list() == as_list(
        ["d/socket", "description", "link-description", "link-link", "link-socket", "socket"])


def test_dead_socket_is_listed(router):
    """Whether somebody listens is seen when the service is asked for, not before."""
    router.backend("dead").close()
    assert router.list() == as_list(["dead"])


def test_hidden_entries(router):
    """Hidden entries and what lies below a hidden directory are left out, at whatever depth."""
    for name in (".hid", ".h/s", "d/.hid", "d/.h/s", "d/s", "...", "a."):
        router.describe(name, "127.0.0.1:9\n")
    router.link("d/visible", "../.hid")
    assert router.list() == as_list(["a.", "d/s", "d/visible"])


def test_names_that_no_line_could_carry(router):
    """A line feed in a file name forged lines in the first kaiso's lists: control bytes are left out."""
    for name in ("a\nforged", "b\r\n\r\nforged", "c\td", "e\x7f", "d\n/inside", "x\x01", "fine"):
        router.describe(name, "127.0.0.1:9\n")
    assert router.list() == as_list(["fine"])


def test_names_as_they_are(router):
    """Spaces, UTF-8 and other bytes are shown as they are."""
    names = [b" lead", b"a b", b"trail ", b"\xc3\xbcber", b"\xff\xfe"]
    for name in names:
        router.describe(name, "127.0.0.1:9\n")
    assert router.list() == as_list(names)


def test_listed_names_open(router):
    """Each line of a list is a path that a client may ask for."""
    for name in ("foo", "d/e/f", " lead", "trail ", "a!b", "\u00fc"):
        router.echo(name)
    lines = router.list().split(b"\r\n")[:-2]
    assert len(lines) == 6
    for line in lines:
        router.connect().line(line).exchange(b"hello")


def test_list_of_a_directory(router):
    """A path that ends in / asks for what lies below, with whole paths; the connection stays open."""
    for name in ("top", "d/a", "d/e/b", "d/e/.hid", "dd/c", "two words/x"):
        router.echo(name)
    router.mkdir("empty")
    client = router.connect()
    assert client.line("d/").receive_list() == as_list(["d/a", "d/e/b"])
    assert client.line("d/e/", b"\n").receive_list() == as_list(["d/e/b"])
    assert client.line("empty/").receive_list() == b"\r\n"
    assert client.line("two words/").receive_list() == as_list(["two words/x"])
    assert client.line("").receive_list() == as_list(["d/a", "d/e/b", "dd/c", "top", "two words/x"])
    client.line("d/e/b").exchange(b"hello")


@pytest.mark.parametrize("path", ["nothing/", "foo/", "d/foo/", ".h/", "d/.h/", "/", "d//", "../", "d/../", "fifo/"])
def test_list_of_no_directory(router, path):
    """Of what is not there, not a directory, or hidden: closed without a byte, as any path that does not exist."""
    router.backend("foo")
    router.backend("d/foo")
    router.backend(".h/s")
    router.backend("d/.h/s")
    os.mkfifo(router.path("fifo"))
    client = router.open(path)
    client.expect_closed()
    router.wait_session(client, reason="not-found")


def test_linked_directories(router):
    """Linked directories are followed, hidden ones and those outside too: the operator put the link there."""
    router.backend(".hidden/s")
    (router.root / "outside").mkdir()
    router.keep(Backend(bind_unix(router.root / "outside" / "away")))
    router.link("in", ".hidden")
    router.link("out", router.root / "outside")
    assert router.list() == as_list(["in/s", "out/away"])
    assert router.list("out/") == as_list(["out/away"])


def test_link_circles(router):
    """Never in a circle: links to the directory itself, to its parents, and to one another."""
    router.backend("foo")
    router.backend("a/x")
    router.backend("b/y")
    router.link("self", ".")
    router.link("a/up", "..")
    router.link("a/over", "../b")
    router.link("b/over", "../a")
    router.link("whole", router.services)
    assert router.list() == as_list(["a/over/y", "a/x", "b/over/x", "b/y", "foo"])


def test_branching_link_circles(router):
    """Branching circles made over 20 000 lines of the first kaiso's list."""
    router.backend("foo")
    for directory in ("a", "b", "c"):
        router.backend(f"{directory}/s")
        for count in range(3):
            router.link(f"{directory}/top{count}", "..")
            router.link(f"{directory}/self{count}", ".")
    assert router.list() == as_list(["a/s", "b/s", "c/s", "foo"])


def test_list_is_of_now(router):
    """Each request is resolved when it comes: a list knows what was there before it was asked for."""
    client = router.connect()
    expected = []
    for count in range(30):
        expected.append(f"s{count:02}")
        router.describe(expected[-1], "127.0.0.1:9\n")
        assert client.line("").receive_list() == as_list(expected)
    os.unlink(router.path(expected.pop(0)))
    assert client.line("").receive_list() == as_list(expected)


def test_directory_changing_meanwhile(router):
    """Lists of a directory in motion are well formed and hold what stood still."""
    still = [f"still{count:03}" for count in range(300)]
    populate(router, still)
    is_over = []

    def move():
        count = 0
        while not is_over:
            name = f"moving{count % 50}"
            router.describe(name, "127.0.0.1:9\n")
            os.rename(router.path(name), router.path(name + "x"))
            os.unlink(router.path(name + "x"))
            count += 1

    mover = Task(move)
    client = router.connect()
    for _ in range(60):
        lines = client.line("").receive_list().split(b"\r\n")
        assert lines[-2:] == [b"", b""] and len(set(lines)) == len(lines) - 1
        assert [line.decode() for line in lines if line.startswith(b"still")] == still
        assert lines[:-2] == sorted(lines[:-2])
    is_over.append(True)
    mover.join()


BIG = 20_000 if IS_SANITIZED else 100_000


def test_hundred_thousand_services_hold_up_nobody(new_router):
    """Listing never holds up other clients: a ping-pong goes on while the list is made and sent."""
    router = new_router("--threads", "1")
    router.echo("zzz")
    names = [f"service-{count:06}" for count in range(BIG)]
    populate(router, names)
    player = router.open("zzz").exchange(b"ping")
    lister = router.connect().line("")
    reading = Task(lister.receive_list)
    rounds = 0
    while reading.is_running():
        player.exchange(b"ping")
        rounds += 1
    assert reading.join() == as_list(names + ["zzz"])
    assert rounds >= 5, f"only {rounds} exchanges while the list was made"
    lister.line("zzz").exchange(b"and on")


def test_list_then_end_of_file(router):
    """A list request followed by end of file still gets the whole list, however long."""
    names = [f"{count:05}-" + "n" * 150 for count in range(BIG // 5)]
    populate(router, names)
    client = router.connect(receive_buffer=4096).send(b"\r\n").end()
    router.settle()
    assert client.receive_all() == as_list(names)
    router.wait_session(client, reason="listed")


def test_reader_that_asks_a_thousand_times_and_reads_nothing(router):
    """It holds up nobody, costs a bounded memory, and gets every one of its lists in the end."""
    router.echo("zzz")
    names = [f"service-{count:04}-" + "x" * 40 for count in range(300)]
    populate(router, names)
    expected = as_list(names + ["zzz"])
    router.list()
    before = router.rss()
    greedy = router.connect(receive_buffer=4096)
    greedy.send(b"\r\n" * 1000 + b"zzz\r\n")
    for _ in range(20):
        router.open("zzz").exchange(b"ping").close()
        assert router.list() == expected
    if not IS_SANITIZED:
        assert router.rss() - before < 8 << 20
    for count in range(1000):
        assert greedy.receive(len(expected)) == expected, f"list number {count} differs"
    greedy.exchange(b"and the service behind them")


def test_requests_without_end_are_not_read(router):
    """A client that asks on and on and reads nothing is stopped by its own full pipe."""
    populate(router, [f"service-{count:04}" for count in range(300)])
    router.list()
    before = router.rss()
    greedy = router.connect(receive_buffer=4096)
    greedy.sock.settimeout(0.3)
    sent = 0
    try:
        while sent < 256 << 20:
            sent += greedy.sock.send(b"\r\n" * 32768)
    except TimeoutError:
        pass
    assert sent < 256 << 20
    if not IS_SANITIZED:
        assert router.rss() - before < 8 << 20
    greedy.reset()
    router.wait_session(greedy, reason="client-reset")


@pytest.mark.parametrize("way", ["close", "reset"])
def test_client_that_leaves_during_a_list(router, way):
    """The first kaiso crashed."""
    names = [f"{count:05}-" + "n" * 200 for count in range(BIG // 5)]
    populate(router, names)
    for _ in range(12):
        client = router.connect(receive_buffer=4096).send(b"\r\n\r\n\r\n")
        getattr(client, way)()
    for _ in range(4):
        client = router.connect(receive_buffer=4096).send(b"\r\n\r\n\r\n")
        client.receive(100)
        getattr(client, way)()
    router.wait_fds_back()
    assert router.list() == as_list(names)


def test_lists_at_once(router):
    """Fifty clients ask at the same moment and each gets the whole."""
    names = [f"service-{count:05}" for count in range(5000)]
    populate(router, names)
    clients = [router.connect() for _ in range(50)]
    for client in clients:
        client.line("")
    for client in clients:
        assert client.receive_list() == as_list(names)


def test_noise_behind_a_list_request(router):
    """What comes behind the list request waits; a full socket behind it stops nobody."""
    router.echo("zzz")
    client = router.connect(receive_buffer=4096).send(b"\r\nzzz\r\n")
    sent = fill(client)
    assert client.receive_list() == b"zzz\r\n\r\n"
    client.end()
    received = 0
    while chunk := client.sock.recv(1 << 18):
        received += len(chunk)
    assert received == sent


def test_list_over_a_unix_listener(new_router):
    """Where the client comes from makes no difference."""
    router = new_router(start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    router.echo("foo")
    client = router.connect().line("")
    assert client.sock.family == socket.AF_UNIX
    assert client.receive_list() == b"foo\r\n\r\n"
    client.line("foo").exchange(b"x")


def test_list_of_a_removed_directory(router):
    """A directory that vanishes between two lists is no longer there."""
    router.describe("d/foo", "127.0.0.1:9\n")
    client = router.connect()
    assert client.line("d/").receive_list() == as_list(["d/foo"])
    os.unlink(router.path("d/foo"))
    os.rmdir(router.path("d"))
    client.line("d/").expect_closed()
    wait_until(lambda: router.log.find(msg="session", client=client.name), "the end of the session")
