"""The PROXY protocol: what front ends say of their clients (--proxy-from), and what services are told (`proxy`).

The bytes are made here, from the specification, not by what is tested. Real peers stand at the end.
"""

import json
import signal
import socket
import struct

import pytest

from harness.exposer import Exposer, FirstKaiso
from harness.router import run_kaiso
from harness.stream import noise

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FRONT = ("--proxy-from", "127.0.0.1")


def v1(source=("192.0.2.1", 1111), destination=("198.51.100.1", 80)):
    family = 6 if ":" in source[0] else 4
    return f"PROXY TCP{family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


def v2_raw(rest=b"", command=0x21, family=0x11, length=None):
    return SIGNATURE + struct.pack(">BBH", command, family, len(rest) if length is None else length) + rest


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


def v2(source=("192.0.2.1", 1111), destination=("198.51.100.1", 80), tlvs=b""):
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    ends = b"".join(socket.inet_pton(family, end[0]) for end in (source, destination))
    ends += struct.pack(">HH", source[1], destination[1])
    return v2_raw(ends + tlvs, family=0x21 if family == socket.AF_INET6 else 0x11)


LOCAL = v2_raw(command=0x20, family=0)
VERSIONS = {"v1": v1, "v2": v2}
TLVS = tlv(0x05, b"unique-1") + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3")) + tlv(0xEA, b"x" * 300)


def ends_of(client):
    """As the header has them."""
    return client.sock.getsockname()[:2], client.sock.getpeername()[:2]


def expect(service, *parts):
    """Exactly these bytes are what comes next."""
    whole = b"".join(parts)
    assert service.receive(len(whole)) == whole



@pytest.fixture
def new_exposer(new_router):
    def make(kaiso, *pairs, options=(), **how):
        return new_router(kaiso, *pairs, kind=Exposer, options=("--threads", "1", *options), **how)

    return make


# ---- towards services

@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("version", VERSIONS)
def test_service_is_told(new_router, version, listen):
    router = new_router(listen=(listen,))
    unix = router.backend(".foo")
    tcp = router.backend_tcp()
    for name, target, backend in (("unix", ".foo", unix), ("tcp", tcp.address, tcp)):
        router.describe(name, f"{target}\nproxy {version}\n")
        client = router.connect().send(f"{name}\r\n".encode() + b"\0\r\nfirst")
        service = backend.accept()
        expect(service, VERSIONS[version](*ends_of(client)), b"\0\r\nfirst")
        service.send(b"back")
        assert client.receive(4) == b"back"
        client.end()
        service.expect_end()
        service.close()
        client.expect_end()
        router.wait_session(client, reason="done", sent=8, received=4)


@pytest.mark.parametrize("version, header", [("v1", b"PROXY UNKNOWN\r\n"), ("v2", LOCAL)])
def test_client_without_an_address(new_router, tmp_path, version, header):
    router = new_router(listen=("127.0.0.1:0", f"unix:{tmp_path}/sock"))
    backend = router.backend(".foo")
    router.describe("foo", f".foo\nproxy {version}\n")
    router.open("foo", address=f"unix:{tmp_path}/sock").send(b"hello")
    expect(backend.accept(), header, b"hello")


@pytest.fixture
def mapped(new_router):
    """A router with one socket for both families, as service managers make them, whose IPv4 clients come mapped."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        command = f"exec 3<&{both.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\""
        return new_router(*FRONT, listen=(), wrapper=("/bin/bash", "-c", command, "sh"), pass_fds=(both.fileno(),))


@pytest.mark.ipv6
def test_mapped_client_is_an_ipv4_one(mapped):
    """A front end among them, too; what it is told, and what it says."""
    backend = mapped.backend(".foo")
    mapped.describe("foo", ".foo\nproxy v2\n")
    client = mapped.open("foo", address=f"[::1]:{mapped.port}")
    expect(backend.accept(), v2(*ends_of(client)))
    mapped.connect(f"127.0.0.1:{mapped.port}").send(LOCAL).line("foo").send(b"hello")
    local = backend.accept()
    assert local.receive(16) == v2()[:16]
    assert local.receive(8) == socket.inet_aton("127.0.0.1") * 2
    mapped.open("foo", address=f"127.0.0.1:{mapped.port}").expect_closed()
    client = mapped.open("foo", address=f"127.0.0.2:{mapped.port}", source="127.0.0.2")
    expect(backend.accept(), v2(*ends_of(client)))


def test_silent_client_is_told_of_at_once(router):
    backend = router.backend(".foo")
    router.describe("foo", ".foo\nproxy v1\n")
    client = router.open("foo")
    expect(backend.accept(), v1(*ends_of(client)))


def test_much_behind_the_header(router):
    backend = router.backend_tcp()
    router.describe("foo", f"{backend.address}\nproxy v2\n")
    client = router.open("foo").send(noise(100_000)).end()
    service = backend.accept()
    expect(service, v2(*ends_of(client)), noise(100_000))
    service.expect_end()


@pytest.mark.parametrize("version", VERSIONS)
def test_before_the_line_to_another_kaiso(router, version):
    """Its verdict is asked for behind the header; and so is the service, where it knows no verdicts."""
    kaiso = router.backend_tcp()
    router.describe("foo", f"{kaiso.address} there/bar\nproxy {version}\n")
    client = router.open(".kaiso/open foo").send(b"hello")
    peer = kaiso.accept()
    expect(peer, VERSIONS[version](*ends_of(client)), b".kaiso/open there/bar\r\n")
    router.signal(signal.SIGUSR2)
    router.wait_log(msg="upgraded")
    peer.close()
    peer = kaiso.accept()
    expect(peer, VERSIONS[version](*ends_of(client)), b"there/bar\r\n", b"hello")
    assert client.receive_line() == b"+\r\n"
    client = router.open("foo").send(b"hello")
    expect(kaiso.accept(), VERSIONS[version](*ends_of(client)), b"there/bar\r\n", b"hello")


def test_of_a_directory_and_none(router):
    """Whoever is nearer has the word."""
    backend = router.backend("dir/told")
    plain = router.backend("dir/.plain")
    router.describe("dir/plain", "dir/.plain\nproxy none\n")
    router.describe("dir/.kaiso", "proxy v1\n")
    client = router.open("dir/told")
    expect(backend.accept(), v1(*ends_of(client)))
    router.open("dir/plain").send(b"hello")
    expect(plain.accept(), b"hello")


# ---- from front ends

@pytest.mark.parametrize("header, source", [
    (v1(), "192.0.2.1:1111"), (v2(), "192.0.2.1:1111"), (v2(tlvs=TLVS), "192.0.2.1:1111"),
    (v1(("2001:db8::1", 2222), ("2001:db8::2", 80)), "[2001:db8::1]:2222"),
    (v2(("2001:db8::1", 2222), ("2001:db8::2", 80)), "[2001:db8::1]:2222"),
    (v1(("::ffff:192.0.2.9", 3333), ("::ffff:192.0.2.2", 80)), "192.0.2.9:3333"),
    (v2(("::ffff:192.0.2.9", 3333), ("::ffff:192.0.2.2", 80)), "192.0.2.9:3333"),
    (b"PROXY UNKNOWN\r\n", None), (b"PROXY UNKNOWN 1 2 3\r\n", None), (LOCAL, None),
    (v2_raw(b"\xff" * 50, command=0x20, family=0x77), None), (v2_raw(family=0), None),
    (v2_raw(b"/" * 216, family=0x31), None), (v2_raw(b"/" * 12, family=0x12), None),
], ids=str)
def test_header_of_a_front_end(new_router, header, source):
    """Whole, in one segment with all else, and byte by byte."""
    router = new_router(*FRONT)
    router.echo("foo")
    together = router.connect().send(header + b"foo\r\nhello")
    assert together.receive(5) == b"hello"
    apart = router.connect()
    for byte in header[:64]:
        apart.send(bytes([byte]))
    apart.send(header[64:]).line("foo").exchange(b"hello")
    for count, client in enumerate((together, apart), 1):
        client.end().expect_end()
        if source is None:
            router.wait_session(client, reason="done", sent=5, received=5)
        else:
            router.log.wait(count, msg="session", client=source, reason="done", sent="5")


MALFORMED = {
    "a plain line": b"foo\r\n", "an HTTP request": b"GET / HTTP/1.1\r\n", "a list": b"\r\n\r\nfoo\r\n",
    "no protocol": b"PROXY\r\n", "two spaces": b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "UDP4": b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "lower case": b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "other family": b"PROXY TCP4 ::1 ::1 1 2\r\n", "other family 6": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "no address": b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", "leading zero": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "large port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "a sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    "few words": b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "many words": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    "LF alone": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nfoo\r\n", "CR alone": b"PROXY UNKNOWN\rfoo\r\n",
    "108 bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "version 1 in 2": v2_raw(command=0x11), "version 3": v2_raw(command=0x31), "command": v2_raw(command=0x22),
    "family": v2_raw(b"x" * 12, family=0x41), "protocol": v2_raw(b"x" * 12, family=0x13),
    "short ends": v2_raw(b"x" * 11), "short ends 6": v2_raw(b"x" * 35, family=0x21), "no ends": v2_raw(),
    "half a TLV": v2(tlvs=b"\x05\0"), "TLV too long": v2(tlvs=b"\x05\0\x04abc"),
    "checksum": v2(tlvs=tlv(0x03, b"abcd")), "checksum's size": v2(tlvs=tlv(0x03, b"abc")),
    "too long": v2_raw(length=4081), "longest": v2_raw(length=0xFFFF),
    "signature": SIGNATURE[:-1] + b"\r",
}


def test_malformed_headers(new_router):
    """All end alike, with nothing said and the reason proxy; the log says what is wrong, not too often."""
    router = new_router(*FRONT)
    foo = router.backend("foo")
    clients = []
    for what, header in MALFORMED.items():
        client = router.connect().send(header)
        client.expect_closed()
        clients.append((what, client))
    for what, client in clients:
        assert router.log.wait(msg="session", client=client.name)["reason"] == "proxy", what
    foo.assert_untouched()
    warnings = router.log.find(msg="no header of the PROXY protocol")
    assert 0 < len(warnings) < len(clients) and warnings[0]["reason"] == "it begins like no version of the protocol"


def test_only_one_header(new_router):
    """A second one is the client's own word: a line like any other, or no line at all."""
    router = new_router(*FRONT)
    router.connect().send(v1() + v1(("203.0.113.1", 9))).expect_closed()
    router.log.wait(msg="session", client="192.0.2.1:1111", reason="not-found")
    router.connect().send(v1(("192.0.2.2", 1)) + v2(("203.0.113.1", 9))).expect_closed()
    router.log.wait(msg="session", client="192.0.2.2:1", reason="proxy")


def test_header_cut_short(new_router):
    router = new_router(*FRONT)
    for header in (v1(), v2(), v2(tlvs=TLVS)):
        for length in (1, 5, 13, len(header) - 1):
            client = router.connect().send(header[:length]).end()
            client.expect_closed()
            router.wait_session(client, reason="proxy")
    silent = router.connect().end()
    silent.expect_end()
    router.wait_session(silent, reason="client-closed")
    gone = router.connect().send(v1()[:20])
    gone.reset()
    router.wait_session(gone)


def test_no_header_in_time(new_router):
    router = new_router(*FRONT, "--request-timeout", "300ms")
    clients = [router.connect(), router.connect().send(v2()[:20]), router.connect().send(v1())]
    for client in clients:
        client.expect_closed()
    for client in (clients[0].name, clients[1].name, "192.0.2.1:1111"):
        router.wait_session(client, reason="request-timeout")


def test_header_of_somebody_else(new_router):
    router = new_router("--proxy-from", "127.0.0.2")
    router.echo("foo")
    line = router.connect().send(v1() + b"foo\r\n")
    line.expect_closed()
    router.wait_session(line, reason="not-found", service=v1().decode().rstrip())
    for header in (v2(), LOCAL, SIGNATURE):
        binary = router.connect().send(header + b"foo\r\n")
        binary.expect_closed()
        router.wait_session(binary, reason="proxy")
    router.open("foo").exchange(b"hello")
    router.open(v1(("127.0.0.9", 7)) + b"foo", source="127.0.0.2").exchange(b"hello").end().expect_end()
    router.wait_session("127.0.0.9:7", reason="done")


def test_unix_front_ends(new_router, tmp_path):
    router = new_router("--proxy-from", "unix", listen=("127.0.0.1:0", f"unix:{tmp_path}/sock"))
    router.echo("foo")
    router.connect(f"unix:{tmp_path}/sock").send(v1()).line("foo").exchange(b"hello").end().expect_end()
    router.wait_session("192.0.2.1:1111", reason="done")
    router.open("foo").exchange(b"plain")


# ---- through to services

def test_chain_keeps_it_all(new_router):
    """From a front end over two routers to the service: addresses and TLVs as they were, but for checksum and padding."""
    inner = new_router(*FRONT)
    outer = new_router(*FRONT)
    backend = inner.backend_tcp()
    inner.describe("foo", f"{backend.address}\nproxy v2\n")
    outer.describe("foo", f"{inner.address} foo\nproxy v2\n")
    source, destination = ("2001:db8::1", 2222), ("2001:db8::2", 443)
    header = v2(source, destination, TLVS + tlv(0x04, b"\0" * 9))
    outer.connect().send(header).line("foo").send(b"hello")
    expect(backend.accept(), v2(source, destination, TLVS), b"hello")
    outer.describe("foo", f"{inner.address} foo\nproxy v1\n")
    outer.connect().send(header).line("foo").send(b"hello")
    expect(backend.accept(), v2(source, destination), b"hello")


def test_longest_header_is_passed_on(new_router):
    router = new_router(*FRONT)
    backend = router.backend(".foo")
    router.describe("foo", ".foo\nproxy v2\n")
    header = v2(tlvs=tlv(0xEA, b"x" * (4096 - 16 - 12 - 3)))
    assert len(header) == 4096
    router.connect().send(header).line("foo").send(b"hello")
    expect(backend.accept(), header, b"hello")


def test_list_and_then_the_service(new_router):
    """What the front end said counts for the whole connection."""
    router = new_router(*FRONT)
    backend = router.backend(".foo")
    router.describe("foo", ".foo\nproxy v2\n")
    client = router.connect().send(v2(tlvs=TLVS)).line("")
    assert client.receive_list() == b"foo\r\n\r\n"
    client.line("foo").send(b"hello")
    expect(backend.accept(), v2(tlvs=TLVS), b"hello")


@pytest.mark.parametrize("version", VERSIONS)
def test_expose_passes_it_on(router, new_exposer, version):
    """The header stands before the word that asks for the verdict; and again where that was not understood."""
    kaiso = router.backend_tcp()
    exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=(*FRONT, "--proxy", version))
    exposer.client().send(VERSIONS[version]() + b"hello")
    header = VERSIONS[version]()
    peer = kaiso.accept()
    expect(peer, header, b".kaiso/open foo\r\n")
    peer.close()  # it does not know the word
    peer = kaiso.accept()
    expect(peer, header, b"foo\r\n", b"hello")
    exposer.client().send(header[:10]).end().expect_closed()
    exposer.wait_log(msg="session", reason="proxy")


def test_expose_to_a_router(new_router, new_exposer):
    router = new_router(*FRONT)
    backend = router.backend(".foo")
    router.describe("foo", ".foo\nproxy v2\nallow 127.0.0.9\n")
    exposer = new_exposer(router.address, "foo", "127.0.0.1:0", options=("--proxy", "v2"))
    client = exposer.client(source="127.0.0.9").send(b"hello")
    expect(backend.accept(), v2(*ends_of(client)), b"hello")
    exposer.client(source="127.0.0.8").expect_closed()
    router.log.wait(msg="session", service="foo", reason="not-allowed")


def test_exposed_session_outlives_the_time_for_its_header(new_exposer):
    kaiso = FirstKaiso({b"foo": lambda stream: stream.send(stream.receive(5)) and stream.receive_all()})
    try:
        exposer = new_exposer(kaiso.address, "foo", "127.0.0.1:0", options=(*FRONT, "--request-timeout", "300ms"))
        first = exposer.client().send(v1() + b"hello")
        assert first.receive(5) == b"hello"
        client = exposer.client().send(v1(("192.0.2.2", 2)) + b"hello")  # asks plainly from the start
        assert client.receive(5) == b"hello"
        assert kaiso.lines == [b".kaiso/open foo\r\n", b"foo\r\n", b"foo\r\n"]
        late = exposer.client()
        late.expect_closed()
        exposer.wait_session(late, reason="request-timeout")
        for one in (client, first):
            one.end().expect_end()
        exposer.wait_session("192.0.2.2:2", reason="done")
    finally:
        kaiso.close()


# ---- who counts as the client

def test_allow_and_deny(new_router):
    router = new_router(*FRONT)
    router.echo("foo")
    router.echo("bar")
    router.describe("baz", f"{router.path('foo').decode()}\nallow 192.0.2.0/24\n")
    router.describe("qux", f"{router.path('bar').decode()}\nallow 127.0.0.0/8\n")
    assert router.connect().send(v1()).line(".kaiso/open baz").receive_line() == b"+\r\n"
    assert router.connect().send(v1()).line(".kaiso/open qux").receive_line().startswith(b"-not-found")
    assert router.connect().send(LOCAL).line(".kaiso/open qux").receive_line() == b"+\r\n"
    assert router.connect().send(v1()).line("").receive_list() == b"bar\r\nbaz\r\nfoo\r\n\r\n"
    assert router.connect().send(LOCAL).line("").receive_list() == b"bar\r\nfoo\r\nqux\r\n\r\n"


def test_status_names_the_client(new_router, tmp_path):
    router = new_router(*FRONT, "--control", str(tmp_path / "control"))
    router.echo("foo")
    router.connect().send(v2()).line("foo").exchange(b"hello")
    status = run_kaiso("status", "--json", "--sessions", "--control", str(tmp_path / "control"))
    assert [one["client"] for one in json.loads(status.stdout)["sessions"]] == ["192.0.2.1:1111"], status


def test_sessions_by_address(new_router):
    """Of the clients behind a front end; of the front end itself, as many as come."""
    router = new_router(*FRONT, "--max-sessions-per-address", "1")
    router.echo("foo")
    first = router.connect().send(v1()).line("foo").exchange(b"hello")
    others = [router.connect().send(v1((f"192.0.2.{i}", 1))).line("foo").exchange(b"hello") for i in range(2, 5)]
    own = [router.connect().send(LOCAL).line("foo").exchange(b"hello") for _ in range(3)]
    router.connect().send(v1(("192.0.2.1", 2))).line("foo").expect_closed()
    router.wait_session("192.0.2.1:2", reason="limit", limit="max-sessions-per-address")
    first.end().expect_end()
    router.wait_session("192.0.2.1:1111", reason="done")
    router.connect().send(v1(("192.0.2.1", 3))).line("foo").exchange(b"hello")
    assert others and own


@pytest.mark.parametrize("ends", ["silent", "local", "upgraded"])
def test_front_end_ends_nobody_elses_count(new_router, ends):
    """A client from the front end's own host counts as one, whatever the front end's own sessions do."""
    router = new_router(*FRONT, "--max-sessions-per-address", "1")
    router.echo("foo")
    router.connect().send(v1(("127.0.0.1", 1))).line("foo").exchange(b"hello")
    own = router.connect()
    if ends != "silent":
        own.send(LOCAL).line("foo").exchange(b"hello")
    if ends == "upgraded":
        router.signal(signal.SIGUSR2)
        router.wait_log(msg="upgraded")
    own.end().expect_end()
    router.wait_session(own)
    router.connect().send(v1(("127.0.0.1", 2))).line("foo").expect_closed()
    router.wait_session("127.0.0.1:2", reason="limit")


def test_refused_client_frees_nothing(new_router):
    """It was not counted, so its end must not count either."""
    router = new_router(*FRONT, "--max-sessions-per-address", "1")
    router.echo("foo")
    router.connect().send(v1()).line("foo").exchange(b"hello")
    for port in (2, 3):
        router.connect().send(v1(("192.0.2.1", port))).line("foo").expect_closed()
        router.wait_session(f"192.0.2.1:{port}", reason="limit")


def test_requests_by_address(new_router):
    router = new_router(*FRONT, "--max-requests-per-second", "1")
    router.echo("foo")
    for _ in range(4):
        router.connect().send(LOCAL).line("foo").exchange(b"hello")
    router.connect().send(v1()).line(".kaiso/open foo").receive_line()
    router.connect().send(v1(("192.0.2.2", 1))).line("foo").exchange(b"hello")
    assert router.connect().send(v1()).line(".kaiso/open foo").receive_line().startswith(b"-limit")


def test_loop_over_a_unix_front_end(new_router, tmp_path):
    """A chain through our own UNIX listener is seen though the header gives its client an address."""
    router = new_router("--proxy-from", "unix", listen=("127.0.0.1:0", f"unix:{tmp_path}/sock"))
    router.describe("foo", f"{tmp_path}/sock\nproxy v2\n")
    client = router.open("foo").send(b"foo\r\n")
    client.expect_closed()
    router.log.wait(msg="session", reason="loop")


# ---- handing over

def test_hand_over_needs_no_header(router):
    """A `proxy` beside it is refused; one of a directory is not for it: what is handed over has its own address."""
    receiver = router.receiver("dir/foo", socket_name="dir/.receiver")
    router.describe("dir/.kaiso", "proxy v2\n")
    client = router.open("dir/foo").send(b"hello")
    taken = receiver.take()
    assert taken.receive(5) == b"hello"
    assert taken.sock.getpeername() == client.sock.getsockname()
    router.describe("dir/bar", "dir/.receiver passfd\nproxy v2\n")
    router.open("dir/bar").expect_closed()
    line = router.wait_log(msg="invalid description")
    assert line["line"] == "2" and "passfd" in line["reason"]


# ---- across upgrades and ends

@pytest.mark.parametrize("cut", [1, 20])
@pytest.mark.parametrize("version", VERSIONS)
def test_upgrade_within_a_header(new_router, version, cut):
    router = new_router(*FRONT)
    backend = router.backend(".foo")
    router.describe("foo", ".foo\nproxy v2\n")
    header = VERSIONS[version]()
    clients = [router.connect().send(header[:cut]), router.connect().send(header), router.connect()]
    router.signal(signal.SIGUSR2)
    router.wait_log(msg="upgraded")
    for client, rest in zip(clients, (header[cut:], b"", header)):
        client.send(rest).line("foo").send(b"hello")
        expect(backend.accept(), v2(), b"hello")


def test_upgrade_within_a_dial(new_router):
    """The service gets the header, TLVs and all, from the program that reaches it."""
    router = new_router(*FRONT)
    backend = router.backend(".foo", backlog=0)
    router.describe("foo", ".foo\nproxy v2\n")
    fillers = backend.fill_backlog()
    router.connect().send(v2(tlvs=TLVS)).line("foo").send(b"hello")
    with router.connect() as other:  # comes after it
        other.send(LOCAL).line(".kaiso/version").receive_line()
    router.signal(signal.SIGUSR2)
    router.wait_log(msg="upgraded")
    for filler in fillers:
        filler.close()
        backend.accept().expect_end()
    expect(backend.accept(), v2(tlvs=TLVS), b"hello")


def test_end_of_the_router(new_router):
    router = new_router(*FRONT)
    clients = [router.connect().send(part) for part in (b"", v2()[:20])]
    with router.connect() as other:
        other.send(LOCAL).line(".kaiso/version").receive_line()
    router.signal(signal.SIGTERM)
    for client in clients:
        client.expect_closed()
        router.wait_session(client, reason="shutdown")
    router.wait_exit()
