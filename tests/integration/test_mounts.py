"""Mounts (`HOST:PORT SERVICE/`, `HOST:PORT /`): what lies below NAME/ is another router's."""

import json
import os
import select
import signal
import socket
import urllib.request

import pytest

from harness.exposer import FirstKaiso
from harness.router import run_kaiso
from harness.services import closed_port, echo
from harness.stream import noise
from harness.wait import DEADLINE, IS_SANITIZED, wait_until

LINE_MAX = 4096


@pytest.fixture
def near(router):
    """The router that the clients come to."""
    return router


@pytest.fixture
def far(new_router, near):
    """The router behind it, mounted whole as `all` and its directory `d` as `some`."""
    far = new_router()
    far.echo("top")
    far.echo("d/echo")
    far.echo("d/e f/gr\u00fc\u00dfe \u2603")
    near.describe("all", f"{far.address} /\n")
    near.describe("some", f"{far.address} d/\n")
    return far


def refused(router, line, reason, **fields):
    client = router.open(line)
    client.expect_closed()
    return router.wait_session(client, reason=reason, **fields)


# ---- services

@pytest.mark.parametrize("path, there", [
    ("all/top", "top"), ("all/d/echo", "d/echo"), ("some/echo", "d/echo"),
    ("some/e f/gr\u00fc\u00dfe \u2603", "d/e f/gr\u00fc\u00dfe \u2603"),
])
def test_service(near, far, path, there):
    """Plainly and by the word for tools; each router logs its own part."""
    for word, answer in (("", b""), (".kaiso/open ", b"+\r\n")):
        with near.open(word + path) as client:
            assert client.receive(len(answer)) == answer
            client.exchange(noise(100_000)).end()
            client.expect_end()
            near.wait_session(client, reason="done", service=path, kind="mount")
    far.wait_log(count=2, msg="session", service=there, reason="done")


def test_target_is_told(near, far):
    """The description's own words, in the log."""
    client = near.open("some/echo").exchange(b"hello").end()
    client.expect_end()
    near.wait_session(client, target=f"{far.address} d/")


def test_bytes_behind_the_line(near, far):
    """In the same segment as the line, whatever they are; and the ends of both directions."""
    backend = far.backend("back")
    client = near.connect().send(b"all/back\r\n\r\nall/top\r\n" + noise(300_000)).end()
    peer = backend.accept()
    assert peer.receive_all() == b"\r\nall/top\r\n" + noise(300_000)
    peer.send(noise(500_000)).close()
    assert client.receive_all() == noise(500_000)
    near.wait_session(client, reason="done")


def test_reset_comes_through(near, far):
    """Both ways."""
    backend = far.backend("back")
    client = near.open("all/back").send(b"hello")
    peer = backend.accept()
    peer.receive(5)
    client.send(b"unread")
    far.settle()
    near.settle()
    peer.close()
    client.expect_reset()
    client = near.open("all/back").send(b"hello")
    peer = backend.accept()
    peer.receive(5)
    client.reset()
    peer.expect_closed()


def test_three_routers(new_router, near, far):
    """A mount behind a mount: whole, and from a directory on; services and lists."""
    first = new_router()
    first.describe("m", f"{near.address} /\n")
    first.describe("n", f"{near.address} some/e f/\n")
    for name in ("m/all/d/echo", "m/some/echo", "n/gr\u00fc\u00dfe \u2603"):
        first.open(name).exchange(b"hello")
        assert first.open(f".kaiso/open {name}").receive(3) == b"+\r\n"
    assert first.list("m/") == b"all/\r\nsome/\r\n\r\n"
    assert first.list("m/some/e f/") == first.list("n/") == "d/e f/gr\u00fc\u00dfe \u2603\r\n\r\n".encode()


def test_places_for_a_mount(near, far):
    """In a directory, and by a link to it, in this directory and outside."""
    near.describe("deep/er/mount", f"{far.address} /\n")
    near.link("link", "deep/er/mount")
    near.link("directory", "deep/er")
    outside = near.root / "outside"
    outside.write_text(f"{far.address} d/\n")
    near.link("outside", outside)
    for name in ("deep/er/mount/top", "link/top", "directory/mount/top", "outside/echo"):
        near.open(name).exchange(b"hello")
    for name in ("deep/er/mount/d/", "link/d/", "directory/mount/d/", "outside/"):
        assert near.list(name) == far.list("d/")


@pytest.mark.parametrize("name", ["all", "some", "all/nothing", "all/d", "nothing/top", "all/top/more"])
def test_not_found(near, far, name):
    """A mount by its plain name is no service. What the far router has not, it says where it is asked to."""
    client = near.open(f".kaiso/open {name}")
    assert client.receive_all().startswith(b"-not-found ")
    near.wait_session(client, reason="not-found", service=name)
    near.open(name).expect_closed()


@pytest.mark.parametrize("rest", [".hid", "d/.hid", "../top", "d/../top", "./top", "/top", "d//echo", "top\x01", ".kaiso/open top",
                                  "d/.", ""])
@pytest.mark.parametrize("word", ["", ".kaiso/open ", ".kaiso/list "])
def test_rest_that_no_client_may_name(near, word, rest):
    """Refused here, before anything is dialled."""
    backend = near.backend_tcp()
    near.describe("m", f"{backend.address} /\n")
    line = f"{word}m/{rest}"
    if word == ".kaiso/list ":
        line += "/"
    elif rest == "":
        line += "/"  # m//
    client = near.open(line)
    got = client.receive_all()
    assert got == b"" if word != ".kaiso/open " else got.startswith(b"-not-found "), got
    near.wait_session(client, reason="not-found")
    backend.assert_untouched()


@pytest.mark.parametrize("length, is_found", [(LINE_MAX - 2, True), (LINE_MAX - 1, False), (LINE_MAX + 50, False)])
def test_line_that_gets_too_long(near, length, is_found):
    """With what the mount puts before it: not found, instead of a line that no router takes."""
    backend = near.backend_tcp()
    prefix = "p" * 100
    near.describe("m", f"{backend.address} {prefix}/\n")
    rest = "r" * (length - len(prefix) - 1)
    client = near.open(f"m/{rest}")
    if is_found:
        assert backend.accept().receive_line() == f"{prefix}/{rest}\r\n".encode()
        return
    client.expect_closed()
    near.wait_session(client, reason="not-found")
    backend.assert_untouched()


# ---- lists

def test_lists(near, far):
    """In the far router's words, in both forms; our own list names the mounts."""
    assert near.list() == b"all/\r\nsome/\r\n\r\n"
    assert near.list(".kaiso/list") == b"all/\tmount\t\r\nsome/\tmount\t\r\n\r\n"
    assert near.list("all/") == far.list()
    assert near.list("some/") == near.list("all/d/") == far.list("d/")
    assert near.list("some/e f/") == far.list("d/e f/")
    assert near.list(".kaiso/list all/") == far.list(".kaiso/list")
    assert near.list(".kaiso/list some/") == near.list(".kaiso/list all/d/") == far.list(".kaiso/list d/")
    for line in ("all/nothing/", "some/echo/", ".kaiso/list all/nothing/"):
        near.open(line).expect_closed()


def test_further_lines_are_the_far_routers(near, far):
    """After such a list the connection is the far router's: its names, its words for tools; lists before it were ours."""
    client = near.connect()
    assert client.line("").receive_list() == b"all/\r\nsome/\r\n\r\n"
    assert client.line("all/d/").receive_list() == far.list("d/")
    assert client.line("").receive_list() == far.list()
    assert client.line(".kaiso/version").receive_line().startswith(b"kaiso ")
    client.line("top").exchange(b"hello")
    client = near.connect().send(b"\r\nsome/\r\nd/\r\n\r\ntop\r\nhello").end()
    assert client.receive_all() == near.list() + far.list("d/") * 2 + far.list() + b"hello"


def test_mount_inside_what_is_listed(near, far):
    """The list of a directory stops at a mount; its entries are the far router's to tell."""
    near.describe("x/m", f"{far.address} /\nabout another machine's\n")
    near.echo("x/own")
    assert near.list("x/") == b"x/m/\r\nx/own\r\n\r\n"
    assert near.list(".kaiso/list x/") == b"x/m/\tmount\tanother machine's\r\nx/own\tunix\t\r\n\r\n"


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_lists_of_the_first_kaiso(near, how):
    """It has the plain list of the whole. On words for tools it closes the connection, and so it does on what is asked through
    us; a service is asked for again, plainly."""
    first = near.keep(FirstKaiso({b"far": echo}, is_resetting=how == "rst"))
    near.describe("m", f"{first.address} /\n")
    client = near.open("m/")
    assert client.receive_list() == b"far\r\n\r\n"
    client.line("far").exchange(b"hello")
    client = near.open(".kaiso/list m/")
    try:
        assert client.receive_all() == b""
    except ConnectionResetError:
        pass
    assert near.open(".kaiso/open m/far").send(b"hello").receive(8) == b"+\r\nhello"
    near.open("m/far").exchange(b"hello")


def test_router_without_words_for_tools(new_router, near):
    """Our own with --no-verbs."""
    far = new_router("--no-verbs")
    far.echo("d/echo")
    near.describe("m", f"{far.address} d/\n")
    assert near.list("m/") == b"d/echo\r\n\r\n"
    near.open(".kaiso/list m/").expect_closed()
    near.open("m/echo").exchange(b"hello")
    assert near.open(".kaiso/open m/echo").receive(3) == b"+\r\n"


# ---- who may

def test_who_may_not(near, far):
    """To them the mount is not there: neither what lies in it, nor its lists, nor its name in ours."""
    near.describe("all", f"{far.address} /\ndeny 127.0.0.2\n")
    near.describe("dir/m", f"{far.address} /\ndeny 127.0.0.2\n")
    near.describe("guarded/m", f"{far.address} /\n")
    near.describe("guarded/.kaiso", "deny 127.0.0.2\n")
    near.echo("dir/own")
    source = {"source": "127.0.0.2"}
    assert near.list(**source) == b"dir/own\r\nsome/\r\n\r\n"
    assert near.list("dir/", **source) == b"dir/own\r\n\r\n"
    assert near.list() == b"all/\r\ndir/m/\r\ndir/own\r\nguarded/m/\r\nsome/\r\n\r\n"
    before = len(far.log.find(msg="session"))
    for mount in ("all", "dir/m", "guarded/m"):
        for line in (f"{mount}/top", f"{mount}/", f"{mount}/d/", f".kaiso/list {mount}/", mount):
            client = near.open(line, **source)
            client.expect_closed()
        client = near.open(f".kaiso/open {mount}/top", **source)
        assert client.receive_all().startswith(b"-not-found ")
        near.wait_session(client, reason="not-allowed", service=f"{mount}/top")
        near.open(f"{mount}/top").exchange(b"hello")
        assert near.list(f"{mount}/d/") == far.list("d/")
    far.settle()
    told = [line for line in far.log.find(msg="session")[before:] if line["client"].startswith("127.0.0.2")]
    assert not told


def test_edits_are_seen(near, far):
    """A mount that is made, moved, made something else, and taken away while clients ask."""
    def is_closed(line):
        with near.open(line) as client:
            client.expect_closed()

    is_closed("m/top")
    near.describe("m", f"{far.address} /\n")
    near.open("m/top").exchange(b"hello")
    is_closed("m/echo")
    near.describe("m", f"{far.address} d/\n")
    near.open("m/echo").exchange(b"hello")
    is_closed("m/top")
    near.describe("m", f"{far.address} top\n")
    near.open("m").exchange(b"hello")
    is_closed("m/echo")
    is_closed("m/")
    os.unlink(near.path("m"))
    is_closed("m/echo")
    near.echo("m/echo")
    near.open("m/echo").exchange(b"hello")
    assert near.list("m/") == b"m/echo\r\n\r\n"


# ---- when the far router is not well

@pytest.mark.parametrize("how", ["down", "full", "silent"])
def test_far_router_is_not_well(new_router, how):
    """Down, with a full backlog, or silent: only its own clients notice, with the reason."""
    near = new_router("--connect-timeout", "400ms")
    near.echo("own")
    port, holder = closed_port()
    backend = near.backend_tcp(backlog=0)
    near.describe("m", f"127.0.0.1:{port if how == 'down' else backend.port} /\n")
    fillers = backend.fill_backlog() if how == "full" else []
    code = "unavailable" if how == "down" else "timeout"
    try:
        clients = [near.open(line) for line in (".kaiso/open m/x", ".kaiso/open m/y")]
        if how != "silent":
            clients += [near.open(line) for line in ("m/x", "m/", "m/d/", ".kaiso/list m/")]
        near.open("own").exchange(b"hello")
        for number, client in enumerate(clients):
            got = client.receive_all()
            assert got.startswith(b"-%s " % code.encode()) if number < 2 else got == b"", got
            near.wait_session(client, reason=code)
        near.open("own").exchange(b"hello")
    finally:
        for filler in fillers:
            filler.close()
        holder.close()


def test_name_of_the_far_router_is_unknown(near):
    """It has no address: unavailable."""
    near.describe("m", "does-not-exist.invalid:37812 /\n")
    client = near.open(".kaiso/open m/x")
    assert client.receive_all().startswith(b"-unavailable ")


def test_invalid_mounts(near):
    """The description is at fault, and the log names it."""
    for number, target in enumerate(("127.0.0.1:1 d//", "127.0.0.1:1 .h/", "127.0.0.1:1 //", "127.0.0.1:1 /x/", "127.0.0.1:1 ../")):
        near.describe(f"m{number}", target + "\n")
        for line in (f".kaiso/open m{number}/x", f".kaiso/open m{number}"):
            client = near.open(line)
            assert client.receive_all().startswith(b"-invalid "), target
        told = near.wait_log(count=2, msg="invalid description", line="1", file=f"{near.services}/m{number}")
        assert all("service path" in line["reason"] for line in told)
        near.open(f"m{number}/").expect_closed()


# ---- several targets, the PROXY protocol

def test_backends_of_a_mount(near, far):
    """The next router is tried when the first one is down; for lists, too."""
    port, holder = closed_port()
    with holder:
        near.describe("m", f"127.0.0.1:{port} /\nbackend {far.address} d/\nbalance first\n")
        for _ in range(3):
            near.open("m/echo").exchange(b"hello")
            assert near.open(".kaiso/open m/echo").receive(3) == b"+\r\n"
            assert near.list("m/") == far.list("d/")
            assert near.list(".kaiso/list m/") == far.list(".kaiso/list d/")


def test_header_goes_first(near):
    """Of the PROXY protocol, before services and lists."""
    backend = near.backend_tcp()
    near.describe("m", f"{backend.address} d/\nproxy v1\n")
    for asked, line in (("m/x", b"d/x\r\n"), ("m/", b"d/\r\n"), (".kaiso/list m/", b".kaiso/list d/\r\n")):
        near.open(asked)
        peer = backend.accept()
        assert peer.receive_line().startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
        assert peer.receive_line() == line


def test_turns_and_counts_are_the_mounts(new_router):
    """All that lies in a mount has one limit, and one turn."""
    near = new_router()
    far = [near.backend_tcp(), near.backend_tcp()]
    near.describe("m", f"{far[0].address} /\nbackend {far[1].address} /\nbalance round-robin\nmax-sessions 3\n")
    clients = [near.open(f"m/{name}") for name in "abc"]
    counts = [0, 0]
    for name in b"abc":
        ready = select.select([one.listener for one in far], [], [], DEADLINE)[0][0]
        index = [one.listener for one in far].index(ready)
        assert far[index].accept().receive_line()[:1] in b"abc"
        counts[index] += 1
    assert sorted(counts) == [1, 2]
    refused(near, "m/d", "limit", limit="max-sessions of the service")
    upgrade(near)
    refused(near, "m/e", "limit", limit="max-sessions of the service")
    clients[0].reset()
    near.wait_session(clients[0], reason="client-reset")
    near.open("m/f")


def test_sessions_are_counted_for_the_mount(new_router, far):
    """Clients name what lies in it, as they like: that must not become lines of what is counted."""
    near = new_router("--http", "127.0.0.1:0")
    near.describe("m", f"{far.address} d/\n")
    for name in ("echo", "nothing", "e f", ""):
        with near.open(f"m/{name}").end() as client:
            client.receive_all()
    address = near.log.find(msg="ready")[0]["http"]
    with urllib.request.urlopen(f"http://{address}/status.json", timeout=DEADLINE) as answer:
        counted = json.load(answer)["services"]
    assert [(one["service"], one["kind"], one["sessions"]) for one in counted] == [("m/", "mount", 4)], counted


def test_names_in_a_mount_are_not_remembered_without_end(new_router):
    """Clients that ask for long names that nobody has, in a mount with many targets, cost no memory."""
    near = new_router("--threads", "1")
    port, holder = closed_port()
    near.describe("m", f"127.0.0.1:{port} /\n" + f"backend 127.0.0.1:{port} /\n" * 20)
    with holder:
        for round in range(2):
            for number in range(200):
                with near.open(f"m/{round}{number:03}" + "x" * 4000) as client:
                    client.expect_closed()
            near.settle()
            if round == 0:
                before = near.rss()
    assert near.rss() < before + (4 << 20) or IS_SANITIZED


# ---- upgrades

def upgrade(router):
    count = len(router.log.find(msg="upgraded")) + 1
    router.signal(signal.SIGUSR2)
    router.log.wait(count, msg="upgraded")


def test_upgrade(near, far):
    """Of either router, while clients are connected, and after a list."""
    clients = [near.open("some/echo").exchange(b"before") for _ in range(3)]
    listed = near.connect()
    assert listed.line("some/").receive_list() == far.list("d/")
    for router in (near, far, near):
        upgrade(router)
        for client in clients:
            client.exchange(noise(50_000))
        assert listed.line("d/").receive_list() == far.list("d/")
    near.open("some/echo").exchange(b"after")
    clients[0].end().expect_end()
    near.wait_session(clients[0], service="some/echo", kind="mount", reason="done", target=f"{far.address} d/")


@pytest.mark.parametrize("line, there", [("m/x y", b"d/x y\r\n"), (".kaiso/list m/", b".kaiso/list d/\r\n"),
                                         (".kaiso/open m/x", b".kaiso/open d/x\r\n")])
def test_upgrade_while_it_is_dialled(new_router, line, there):
    """The new program dials anew, and asks for the same. (A second each: the kernel asks a full backlog again.)"""
    near = new_router("--connect-timeout", "20s")
    backend = near.backend_tcp(backlog=0)
    near.describe("m", f"{backend.address} d/\n")
    fillers = backend.fill_backlog()
    client = near.connect().send(line.encode() + b"\r\nahead")
    near.settle()
    upgrade(near)
    for filler in fillers:
        filler.close()
    backend.listener.listen(128)
    while True:
        peer = backend.accept()
        got = peer.sock.recv(1, socket.MSG_PEEK)
        if got:
            break
    assert peer.receive_line() == there
    if line.startswith(".kaiso/open"):
        peer.send(b"+\r\n")
        assert client.receive(3) == b"+\r\n"
    assert peer.receive(5) == b"ahead"


# ---- programs

def test_programs(near, far):
    """`kaiso ls` of a mount and of what lies in it; `kaiso connect`; `kaiso check` has nothing to say against it."""
    def ls(*words):
        result = run_kaiso("ls", near.address, *words)
        assert result.returncode == 0, result
        return result.stdout

    assert ls() == b"all/\nsome/\n"
    assert ls("all/") == run_kaiso("ls", far.address).stdout
    assert ls("some/e f/") == run_kaiso("ls", far.address, "d/e f/").stdout
    assert b"d/echo\tunix" in ls("-l", "some/")
    assert run_kaiso("ls", near.address, "all/nothing/").returncode != 0
    result = run_kaiso("connect", near.address, "all/top")
    assert (result.returncode, result.stdout) == (0, b"")
    result = run_kaiso("check", "--services", str(near.services))
    assert result.returncode == 0, result


# ---- circles

CIRCLES = [("{} m\n", "m"), ("{} m\n", ".kaiso/open m"), ("{} m/\n", "m/x"), ("{} m/\n", ".kaiso/open m/x"), ("{} m/\n", "m/"),
           ("{} m/\n", ".kaiso/list m/"), ("{} m/m/\n", "m/x"), ("{} m/m/\n", "m/")]


def is_over(client):
    return bool(select.select([client.sock], [], [], 0)[0])


def run_circle(routers, form, line, reason):
    """Asks for what leads from each router to the next, and from the last to the first. Whoever is connected already is
    served meanwhile; what it took comes back. It ends with that reason."""
    others = []
    for number, router in enumerate(routers):
        router.echo("echo")
        router.describe("m", form.format(routers[(number + 1) % len(routers)].address))
        others.append(router.open("echo").exchange(b"before"))
    memory = [router.rss() for router in routers]
    with routers[0].open(line) as client:
        while not is_over(client):
            for other in others:
                other.exchange(b"meanwhile")
        try:
            client.receive_all()
        except ConnectionResetError:
            pass
    for router, other, before in zip(routers, others, memory):
        other.exchange(b"after").end().expect_end()
        router.wait_fds_back()
        router.open("echo").exchange(b"hello").end().expect_end()
        assert router.rss() < before + (32 << 20) or IS_SANITIZED
    wait_until(lambda: any(router.log.find(msg="session", reason=reason) for router in routers), f"the reason {reason}")


@pytest.mark.parametrize("form, line", CIRCLES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_circle(new_router, count, form, line):
    """Through one router it is seen; through several it ends at a limit."""
    routers = [new_router("--max-sessions", "100") for _ in range(count)]
    run_circle(routers, form, line, "loop" if count == 1 else "limit")


def test_circle_with_default_limits(new_router):
    """It ends when one of them has as many sessions as its descriptors are enough for. Over a second router nothing tells a
    circle from many clients."""
    routers = [new_router("--threads", "1", wrapper=("prlimit", "--nofile=1500:1500")) for _ in range(2)]
    run_circle(routers, "{} m\n", "m", "limit")


def test_path_that_grows_round_and_round(new_router):
    """It ends when no line has room for it."""
    routers = [new_router("--threads", "1") for _ in range(2)]
    run_circle(routers, "{} " + "m" + "/longer-and-longer" * 20 + "/m/\n", "m/x", "not-found")
    told = [line for router in routers for line in router.log.find(msg="session", reason="not-found")]
    assert len(told) == 1 and sum(len(router.log.find(msg="session")) for router in routers) < 30


def test_path_that_shrinks(new_router):
    """Where each turn takes a component off it, it is no circle, and what is asked for at its end is there."""
    first, second = new_router(), new_router()
    first.describe("m", f"{second.address} /\n")
    second.describe("m", f"{first.address} /\n")
    second.echo("echo")
    client = first.open(".kaiso/open " + "m/" * 9 + "echo")
    assert client.receive(3) == b"+\r\n"
    client.exchange(noise(100_000))
