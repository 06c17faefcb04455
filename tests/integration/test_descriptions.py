"""Service descriptions: every form of the first line, and everything invalid (the protocol, section 2)."""

import os
import socket
import subprocess
import sys

import pytest

from harness.namespaces import joined, unshared
from harness.services import Backend, bind_tcp, bind_unix, closed_port, echo
from harness.stream import noise
from harness.wait import DEADLINE, wait_until


def reach(router, name, peer_of):
    """A client of that service reaches that backend."""
    router.open(name).send(b"hello").end()
    assert peer_of.accept().receive_all() == b"hello"


# ---- HOST:PORT

@pytest.mark.parametrize("form", [
    "127.0.0.1:{}\n", "127.0.0.1:{}", "127.0.0.1:{}\r\n", "127.0.0.1:{}  \n", "127.0.0.1:{}\t \r\n", "127.0.0.1:{} ",
    "localhost:{}\n", "LocalHost:{}\r\n", "127.0.0.1:{}\n\n# a comment\n   \n\t\r\n#another\r\n",
])
def test_host_and_port(router, form):
    """TCP; CRLF, a missing last line end, and blanks at the end of a line do no harm."""
    backend = router.backend_tcp()
    router.describe("d/foo", form.format(backend.port))
    client = router.open("d/foo").send(b"hello").end()
    peer = backend.accept()
    assert peer.receive_all() == b"hello"
    peer.send(b"answer").close()
    assert client.receive_all() == b"answer"
    router.wait_session(client, reason="done", kind="tcp", service="d/foo", sent=5, received=6)


@pytest.mark.parametrize("form", ["[::1]:{}\n", "[::1]:{}", "[0:0::0:1]:{} \r\n"])
def test_ipv6_address_in_brackets(router, form):
    """The first kaiso knew no IPv6."""
    backend = router.backend_tcp(host="::1")
    router.describe("foo", form.format(backend.port))
    reach(router, "foo", backend)


def test_nobody_listens(router):
    """Closed without a byte, reason unavailable."""
    port, holder = closed_port()
    with holder:
        router.describe("foo", f"127.0.0.1:{port}\n")
        client = router.open("foo")
        client.expect_closed()
        router.wait_session(client, reason="unavailable")


def _with_hosts(new_router, text, *more):
    """A router that reads its own /etc/hosts, in a mount name space."""
    router = new_router(start=False)
    hosts = router.root / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + text)
    router.wrapper = [*unshared("mount"), "sh", "-c",
                      f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh", *more]
    return router.start()


@pytest.mark.parametrize("host", ["127.0.0.5", "127.0.0.6", "127.0.0.7", "::1"])
def test_several_addresses_are_tried_in_turn(new_router, host):
    """A name with several addresses: whichever of them somebody listens at is found."""
    router = _with_hosts(new_router, "127.0.0.5 many\n127.0.0.6 many\n127.0.0.7 many\n::1 many\n")
    backend = router.backend_tcp(host=host)
    router.describe("foo", f"many:{backend.port}\n")
    for _ in range(3):
        reach(router, "foo", backend)


def test_none_of_several_addresses_answers(new_router):
    """All were tried, nobody listens: unavailable, and nothing stays behind."""
    router = _with_hosts(new_router, "127.0.0.5 many\n127.0.0.6 many\n::1 many\n")
    port, holder = closed_port()
    with holder:
        router.describe("foo", f"many:{port}\n")
        client = router.open("foo")
        client.expect_closed()
        router.wait_session(client, reason="unavailable")


def test_unknown_host_name(new_router):
    """A name that nobody knows (here: no network at all) is unavailable, and others are served meanwhile."""
    router = new_router("--connect-timeout", "2s", start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.wrapper = unshared("net")
    router.start()
    router.echo("foo")
    router.describe("unknown", "no-such-host.invalid:80\n")
    client = router.open("unknown")
    router.open("foo").exchange(b"hello")
    client.expect_closed()
    line = router.wait_log(msg="session", service="unknown")
    assert line["reason"] in ("unavailable", "timeout")


# ---- HOST:PORT SERVICE

@pytest.mark.parametrize("form, line", [
    ("127.0.0.1:{} foo\n", b"foo\r\n"),
    ("127.0.0.1:{} far/away", b"far/away\r\n"),
    ("127.0.0.1:{} \t  far/away\r\n", b"far/away\r\n"),
    ("127.0.0.1:{} two  words in  it  \n", b"two  words in  it\r\n"),
    ("127.0.0.1:{} \u00fcber\n", "\u00fcber\r\n".encode()),
    ("localhost:{} passfd\n", b"passfd\r\n"),
    ("127.0.0.1:{} foo:80\n# a comment\n", b"foo:80\r\n"),
])
def test_chain_sends_the_line_first(router, form, line):
    """`SERVICE` CRLF goes before any data; the path is whole, inner blanks included."""
    backend = router.backend_tcp()
    router.describe("chain", form.format(backend.port))
    client = router.open("chain")
    peer = backend.accept()
    assert peer.receive(len(line)) == line
    peer.send(b"a greeting")
    assert client.receive(10) == b"a greeting"
    client.send(b"\r\npayload").end()
    assert peer.receive_all() == b"\r\npayload"
    peer.close()
    client.expect_end()
    router.wait_session(client, reason="done", kind="kaiso", sent=9, received=10)


def test_chain_with_bytes_behind_the_line(router):
    """What the client has already sent comes right behind the chain's line."""
    backend = router.backend_tcp()
    router.describe("chain", f"{backend.address} far\n")
    data = noise(200_000)
    router.connect().send(b"chain\n" + data).end()
    assert backend.accept().receive_all() == b"far\r\n" + data


def test_longest_path_of_a_chain(router):
    """What a request line can carry with its CRLF, and not a byte more."""
    backend = router.backend_tcp()
    longest = "/".join(["p" * 90] * 45)  # 4094 bytes
    assert len(longest) == 4094
    router.describe("chain", f"{backend.address} {longest}\n")
    router.open("chain").send(b"hello").end()
    assert backend.accept().receive_all() == longest.encode() + b"\r\nhello"
    for more in ("p", "p" * 1000, "p" * 60_000):
        router.describe("longer", f"{backend.address} {longest}{more}\n")
        client = router.open("longer")
        client.expect_closed()
        router.wait_session(client, reason="invalid")
    backend.assert_untouched()


def test_chain_to_a_second_router(new_router):
    """Through two routers to a service, data both ways, half-close kept, failures closed."""
    first, second = new_router(), new_router()
    second.echo("d/foo")
    second.echo("two words")
    first.describe("near", f"{second.address} d/foo\n")
    first.describe("spaced", f"{second.address} two words\n")
    first.describe("lost", f"{second.address} nothing\n")
    client = first.open("near").exchange(b"hello").exchange(noise(100_000))
    client.end().expect_end()
    first.open("spaced").exchange(b"hello")
    first.open("lost").expect_closed()


def test_description_without_a_path_speaks_to_the_other_router(new_router):
    """`HOST:PORT` of a kaiso without a path makes the client speak to that router itself."""
    first, second = new_router(), new_router()
    second.echo("d/foo")
    first.describe("other", second.address)
    client = first.connect().send(b"other\r\n\r\n")
    assert client.receive_list() == b"d/foo\r\n\r\n"
    client.line("d/foo").exchange(b"hello")


# ---- SOCKET

@pytest.mark.parametrize("target, text", [
    ("foo", "foo\n"), ("foo", "foo"), ("foo", "foo\r\n"), ("foo", "foo \t \r\n"), ("./foo", "./foo\n"),
    ("sub/foo", "sub/foo\n"), ("two words", "two words\n"), ("two  words and more", "two  words and more  \n"),
    ("a:b", "./a:b\n"), ("a:80", "./a:80\n"), ("sub/a:80", "./sub/a:80"), (".hidden/foo", ".hidden/foo\n"),
    ("passfdx", "passfdx\n"), ("not passfdx", "not passfdx\n"), ("passfd foo", "passfd foo\n"),
    ("foo", "foo\n\n# x\n"),
    ("../beside", "../beside\n"),
])
def test_socket(router, target, text):
    """A line without HOST:PORT is a socket path, whole, relative to the services directory."""
    backend = router.backend(target)
    for name in ("description", "d/e/description"):
        router.describe(name, text)
        reach(router, name, backend)


def test_absolute_socket(router):
    """A socket path may be absolute."""
    backend = router.keep(Backend(bind_unix(router.root / "elsewhere" / "socket")))
    router.describe("foo", f"{router.root}/elsewhere/socket\n")
    client = router.open("foo").send(b"hello").end()
    peer = backend.accept()
    assert peer.receive_all() == b"hello"
    peer.close()
    router.wait_session(client, reason="done", kind="unix")


def test_long_socket_path(router):
    """Of any length too, relative and absolute."""
    path = "/".join(["s" * 100] * 30)
    backend = router.backend(path)
    router.describe("relative", f"{path}\n")
    router.describe("absolute", f"{router.services}/{path}\n")
    reach(router, "relative", backend)
    reach(router, "absolute", backend)


@pytest.mark.parametrize("text", ["nothing\n", "sub/nothing", "/nonexistent/socket\n", "other\n", ".\n", "dead"])
def test_socket_that_is_not_there(router, text):
    """No socket, another description, a directory, a dead socket: unavailable."""
    router.describe("other", "127.0.0.1:9\n")
    router.backend("dead").close()
    router.describe("foo", text)
    client = router.open("foo")
    client.expect_closed()
    router.wait_session(client, reason="unavailable")


# ---- anything else

INVALID = {
    "empty": b"",
    "blank": b"\n# 127.0.0.1:80\n",
    "blanks": b" \t \r\n",
    "comment": b"# 127.0.0.1:80\n",
    "nul-in-host": b"127.0\0.0.1:80\n",
    "nul-in-socket": b"foo\0bar\n",
    "port-zero": b"127.0.0.1:0\n",
    "port-65536": b"127.0.0.1:65536\n",
    "port-65616": b"127.0.0.1:65616\n",
    "port-huge": b"127.0.0.1:99999999999999999999\n",
    "port-none": b"127.0.0.1:\n",
    "port-word": b"127.0.0.1:http\n",
    "port-sign": b"127.0.0.1:+80\n",
    "port-minus": b"127.0.0.1:-80\n",
    "port-tail": b"127.0.0.1:80x\n",
    "port-zero-chain": b"127.0.0.1:0 foo\n",
    "host-none": b":80\n",
    "colons": b"a:b:c\n",
    "colons-port": b"a:b:80\n",
    "colon-socket": b"a:b\n",
    "ipv6-bare": b"::1:80\n",
    "ipv6-no-port": b"[::1]\n",
    "ipv6-open": b"[::1:80\n",
    "ipv6-empty": b"[]:80\n",
    "passfd-port-zero": b"foo passfd:0\n",
    "passfd-port-big": b"foo passfd:65536\n",
    "passfd-port-word": b"foo passfd:x\n",
    "passfd-port-none": b"foo passfd:\n",
    "mount-twice": b"127.0.0.1:80 far//\n",
    "srv-empty-part": b"srv:_kaiso..example.org\n",
    "srv-hidden": b"srv:_kaiso._tcp.example.org .foo\n",
}


def expect_invalid(router, name, line, is_whole_file=False):
    """Refused, silently for plain clients and by its code for others; the log names file, line and reason."""
    client = router.open(name)
    client.expect_closed()
    router.wait_session(client, reason="invalid")
    told = router.wait_log(msg="invalid description", level="warning")
    assert told["file"].endswith(f"services/{name}"), told
    assert told["line"] in (str(line), "0" if is_whole_file else str(line)), told
    assert told["reason"], told
    client = router.open(f".kaiso/open {name}")
    assert client.receive_line().startswith(b"-invalid ")
    client.expect_closed()


@pytest.mark.parametrize("case", INVALID)
def test_invalid_first_line(router, case):
    """Anything else makes the description invalid."""
    router.backend("foo")
    router.backend("a:b:c")
    router.backend("a:b")
    router.describe("d/bad", INVALID[case])
    expect_invalid(router, "d/bad", 1, is_whole_file=case == "empty")


@pytest.mark.parametrize("text, line", [
    ("{}\nabout\n", 2),
    ("{}\n\n# fine\nallow 10.0.0.0/33\n", 4),
    ("{}\r\n\r\nfrobnicate yes\r\n", 3),
    ("{}\nbackend 127.0.0.1:0\n", 2),
    ("{}\nbackend 127.0.0.1:81 /\n", 2),
    ("{}\nconnect-timeout 5", 2),
    ("{}\n  max-sessions many\n", 2),
    ("{}\nbalance first\nbalance first\n", 3),
    ("{}\nproxy v3\n", 2),
])
def test_option_lines_are_refused(router, text, line):
    """An option line that makes no sense is not passed over."""
    backend = router.backend_tcp()
    router.describe("bad", text.format(backend.address))
    expect_invalid(router, "bad", line)
    backend.assert_untouched()


def test_description_of_64_kib(router):
    """A regular file of at most 64 KiB."""
    backend = router.backend_tcp()
    line = f"{backend.address}\n".encode()
    comments = b"# filling\n" * 7000
    router.describe("largest", (line + comments)[:65535] + b"\n")
    assert os.path.getsize(router.path("largest")) == 65536
    reach(router, "largest", backend)
    router.describe("larger", (line + comments)[:65536] + b"\n")
    client = router.open("larger")
    client.expect_closed()
    router.wait_session(client, reason="invalid")
    assert router.wait_log(msg="invalid description")["file"].endswith("services/larger")
    backend.assert_untouched()


def test_huge_file_holds_up_nobody(router):
    """A huge file blocked everyone in the first kaiso."""
    router.echo("foo")
    with open(router.path("huge"), "wb") as file:
        file.write(b"127.0.0.1:80\n")
        file.truncate(1 << 40)
    before = router.rss()
    client = router.open("huge")
    router.open("foo").exchange(b"hello")
    client.expect_closed()
    router.wait_session(client, reason="invalid")
    assert router.rss() - before < 64 << 20


def test_first_line_of_64_kib(router):
    """A line as long as the file may be is no target, and its part of the log is cut short."""
    router.describe("bad", b"x" * 65536)
    router.open("bad").expect_closed()
    router.describe("worse", b"h" * 65000 + b":80\n")
    router.open("worse").expect_closed()
    router.echo("foo")
    router.open("foo").exchange(b"hello")


def test_description_changed_while_running(router):
    """Each request is resolved when it comes."""
    first, second = router.backend_tcp(), router.backend_tcp()
    for backend in (first, second, first):
        router.describe("foo", f"{backend.address}\n")
        reach(router, "foo", backend)
    router.describe("foo", "no:good:at:all\n")
    client = router.open("foo")
    client.expect_closed()
    router.wait_session(client, reason="invalid")
    os.unlink(router.path("foo"))
    backend = router.backend("foo")
    reach(router, "foo", backend)


def test_description_rewritten_in_place(router):
    """Also when the file is the same and only its content is new (same length, perhaps the same moment)."""
    first, second = router.backend_tcp(), router.backend_tcp()
    assert len(first.address) == len(second.address)
    for backend in (first, second, first, second):
        with open(router.path("foo"), "wb") as file:
            file.write(f"{backend.address}\n".encode())
        reach(router, "foo", backend)


# ---- loops

@pytest.mark.parametrize("path", ["a", "one"])
def test_chain_into_itself(router, path):
    """A target that leads back into the same router: a service that occurs twice is refused, reason loop."""
    router.describe("a", f"{router.address} a\n")
    router.describe("one", f"{router.address} two\n")
    router.describe("two", f"{router.address} three\n")
    router.describe("three", f"{router.address} one\n")
    client = router.open(path)
    client.expect_closed()
    client.close()
    line = router.wait_log(msg="session", reason="loop")
    assert line["service"] == path
    router.wait_fds_back()
    assert len(router.log.find(msg="session")) <= 4


def test_loop_is_told_to_who_asks(router):
    """`.kaiso/open` behind a description of the router itself: the second time through it is -loop."""
    router.describe("self", router.address)
    client = router.open("self").line(".kaiso/open self")
    assert client.receive_line().startswith(b"-loop ")
    client.expect_closed()


def test_chain_into_the_same_router_without_a_loop(router):
    """To lead back into the same router is no loop as long as the services differ."""
    router.echo("end")
    router.describe("two", f"{router.address} end\n")
    router.describe("one", f"{router.address} two\n")
    router.open("one").exchange(b"hello").exchange(noise(50_000))


def test_same_service_twice_without_a_loop(router):
    """Two clients of one chain at the same time are no loop."""
    router.echo("end")
    router.describe("one", f"{router.address} end\n")
    clients = [router.open("one") for _ in range(10)]
    for client in clients:
        client.exchange(b"hello")


def test_loop_over_two_routers(new_router):
    """A circle through two routers ends by a limit, not when descriptors run out, and leaves nothing behind."""
    first, second = new_router("--max-sessions", "40"), new_router("--max-sessions", "40")
    first.describe("x", f"{second.address} x\n")
    second.describe("x", f"{first.address} x\n")
    first.echo("foo")
    client = first.open("x")
    client.expect_closed()
    client.close()
    assert wait_until(lambda: first.log.find(reason="limit") + second.log.find(reason="limit"), "the limit")
    first.wait_fds_back()
    second.wait_fds_back()
    first.open("foo").exchange(b"hello")


# What happens inside a network name space whose connections all get one and the same port to come from, save the
# backend connection of the second client, which could not go to the same place as the first's from there.
# Prints what each step brought.
ONE_PORT = """
import os, socket, sys
root = sys.argv[1]

def ports(first, last):
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write(f"{first} {last}")

def connect(address, line, last_port=40000):
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.settimeout(20)
    client.connect(address)
    ports(40000, last_port)
    client.sendall(line)
    return client

service = socket.socket()
service.bind(("127.0.0.1", 50002))
service.listen()
first = connect(root + "/listener", b".kaiso/open foo\\r\\n")
print(first.recv(3), service.accept()[1][1])
second = connect(("127.0.0.1", 50001), b".kaiso/open foo\\r\\n", last_port=40003)
print(second.getsockname()[1], second.recv(3))
ports(40000, 40000)
third = connect(root + "/listener", b".kaiso/open itself\\r\\n")
print(third.recv(13))
"""


def _run_with_one_port(new_router):
    router = new_router(start=False)
    setup = 'ip link set lo up && echo "40000 40000" >/proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
    router.wrapper = (*unshared("net"), "sh", "-c", setup, "sh")
    router.listen = [f"unix:{router.root}/listener", "127.0.0.1:50001"]
    router.start()
    router.describe("foo", "127.0.0.1:50002\n")
    router.describe("itself", "127.0.0.1:40000\n")
    result = subprocess.run(
        [*joined(router.pid, "net"), sys.executable, "-c",
         ONE_PORT, str(router.root)], capture_output=True, timeout=3 * DEADLINE, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines()


def test_client_from_the_port_of_a_backend_is_no_loop(new_router):
    """The kernel gives one port to connections to different places: a client that happens to come from the port that
    a backend connection of the router has, too, does not come from the router."""
    first, second, _ = _run_with_one_port(new_router)
    assert first == "b'+\\r\\n' 40000"
    assert second == "40000 b'+\\r\\n'"


def test_connection_to_itself_is_no_service(new_router):
    """A port that nobody listens on, taken by the very connection that is made to it: unavailable, not an echo."""
    assert _run_with_one_port(new_router)[2] == "b'-unavailable '"


def test_chain_through_a_unix_listener_of_its_own(new_router):
    """A UNIX socket has no address to recognise: such a circle ends by a limit and leaves nothing behind."""
    router = new_router("--max-sessions", "30", start=False)
    router.listen = [f"unix:{router.root}/listener", "127.0.0.1:0"]
    router.start()
    address = next(address for address in router.addresses if not address.startswith("unix:"))
    router.link("self", router.root / "listener")
    client = router.connect(address=address).send(b"self\r\n" * 1000)
    try:
        client.expect_end()
    except ConnectionResetError:
        pass
    client.close()
    router.wait_log(msg="session", reason=lambda reason: reason in ("limit", "loop"))
    router.wait_fds_back()


@pytest.mark.ipv6
def test_many_kinds_at_once(router):
    """Targets of every kind side by side."""
    router.echo("unix")
    router.service_tcp("tcp", echo)
    router.describe("described", "unix\n")
    router.describe("chain", f"{router.address} tcp\n")
    ipv6 = router.keep(Backend(bind_tcp("::1")))
    router.describe("six", f"{ipv6.address}\n")
    clients = [router.open(name) for name in ("unix", "tcp", "described", "chain") for _ in range(5)]
    for client in clients:
        client.exchange(b"hello")
    reach(router, "six", ipv6)
    assert ipv6.listener.family == socket.AF_INET6


# ---- options for directories

@pytest.mark.parametrize("place, refused, served", [
    ("", ["foo", "text", "d/foo", "d/e/foo"], []),
    ("d", ["d/foo", "d/e/foo", "d/text"], ["foo"]),
    ("d/e", ["d/e/foo"], ["foo", "d/foo"]),
])
def test_options_for_a_directory(router, place, refused, served):
    """A file .kaiso may say who must not enter what lies at and below it."""
    for name in ("foo", "d/foo", "d/e/foo"):
        router.echo(name)
    for name in ("text", "d/text"):
        router.describe(name, "foo\n")
    for path in refused + served:
        router.open(path).exchange(b"before")
    router.describe(f"{place}/.kaiso".lstrip("/"), "deny 127.0.0.0/8\n")
    for path in refused:
        client = router.open(path)
        client.expect_closed()
        router.wait_session(client, reason="not-allowed", service=path)
    for path in served:
        router.open(path).exchange(b"after")


def test_invalid_options_for_a_directory(router):
    """Options that make no sense might say who must not enter: nobody does, and the log says why."""
    router.echo("d/foo")
    router.describe("d/.kaiso", "deny everybody\n")
    client = router.open("d/foo")
    client.expect_closed()
    router.wait_session(client, reason="invalid", service="d/foo")
    told = router.wait_log(msg="invalid description")
    assert told["file"].endswith("services/d/.kaiso") and told["line"] == "1", told
