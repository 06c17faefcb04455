"""`.kaiso/open` through other routers: what the last one says comes back to who asked the first."""

import signal

import pytest

from harness.exposer import FirstKaiso
from harness.router import run_kaiso
from harness.services import closed_port, echo
from harness.stream import noise
from harness.wait import DEADLINE, wait_until

CODES = ["not-found", "denied", "unavailable", "timeout", "limit", "invalid", "loop"]


def expect_refusal(client, code):
    """`-CODE TEXT` CRLF and the end."""
    line = client.receive_line()
    assert line.startswith(b"-%s " % code.encode()), line
    client.expect_closed()


@pytest.fixture(params=["chain", "mount"])
def asked(request, router):
    """A router before a kaiso that the test plays: (router, kaiso, how a client names its service `far`)."""
    kaiso = router.backend_tcp()
    form = {"chain": f"{kaiso.address} far\n", "mount": f"{kaiso.address} /\n"}[request.param]
    router.describe("near", form)
    return router, kaiso, {"chain": "near", "mount": "near/far"}[request.param]


def test_the_last_router_says_it(new_router):
    """Over three routers, by description and by mount: what is there opens, and why something does not is told."""
    first, second, third = new_router(), new_router(), new_router()
    third.echo("d/echo")
    third.backend("dead").close()
    third.describe("wrong", "a:b:c\n")
    third.describe("secret", "127.0.0.1:9\ndeny 127.0.0.0/8\n")
    second.describe("mount", f"{third.address} /\n")
    first.describe("mount", f"{second.address} mount/\n")
    first.describe("echo", f"{second.address} mount/d/echo\n")
    for name in ("mount/d/echo", "echo"):
        client = first.connect().send(b".kaiso/open %s\r\nahead" % name.encode())
        assert client.receive(8) == b"+\r\nahead"
        client.exchange(noise(100_000))
    for name, code in (("nothing", "not-found"), ("d", "not-found"), ("dead", "unavailable"), ("wrong", "invalid"),
                       ("secret", "not-found")):
        client = first.open(f".kaiso/open mount/{name}")
        expect_refusal(client, code)
        first.wait_session(client, reason=code, service=f"mount/{name}", kind="mount")


@pytest.mark.parametrize("code", CODES)
def test_code_is_passed_on(asked, code):
    """Whichever the other router says; nothing but the code, for the text is ours."""
    router, kaiso, name = asked
    client = router.connect().send(b".kaiso/open %s\nahead" % name.encode())
    with kaiso.accept() as peer:
        assert peer.receive_line() == b".kaiso/open far\r\n"
        peer.send(b"-%s its own words\r\nmore" % code.encode())
        line = client.receive_line()
        assert line.startswith(b"-%s " % code.encode()) and b"its own" not in line
        client.expect_closed()


def test_nothing_before_the_verdict(asked):
    """The client hears "+" when the other router has said so, once, and what the service says right behind it."""
    router, kaiso, name = asked
    client = router.connect().send(b".kaiso/open %s\nahead" % name.encode()).end()
    peer = kaiso.accept()
    assert peer.receive_line() == b".kaiso/open far\r\n"
    router.settle()
    client.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.sock.recv(1)
    client.sock.settimeout(DEADLINE)
    peer.send(b"+\r\n+\r\nhello")
    assert client.receive(11) == b"+\r\n+\r\nhello"
    assert peer.receive_all() == b"ahead"
    peer.close()
    client.expect_end()
    router.wait_session(client, reason="done", sent=5, received=8)


def test_plain_requests_stay_plain(asked):
    """Who asks without a word for tools is passed on without one."""
    router, kaiso, name = asked
    client = router.open(name).send(b"ahead")
    peer = kaiso.accept()
    assert peer.receive(10) == b"far\r\nahead"
    peer.send(b"answer")
    assert client.receive(6) == b"answer"


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("form", ["{} far\n", "{} /\n"])
def test_router_without_the_word(new_router, how, form):
    """It closes the connection on it: then it is asked plainly, and for a minute at once (each thread learns it itself)."""
    router = new_router("--threads", "1")
    first = router.keep(FirstKaiso({b"far": echo}, is_resetting=how == "rst"))
    router.describe("near", form.format(first.address))
    name = "near" if "far" in form else "near/far"
    for _ in range(3):
        client = router.connect().send(b".kaiso/open %s\nahead" % name.encode())
        assert client.receive(8) == b"+\r\nahead"
        client.exchange(noise(100_000))
    assert first.lines == [b".kaiso/open far\r\n"] + [b"far\r\n"] * 3


def test_no_verbs(new_router):
    """Our own router without words for tools is such a one."""
    first, second = new_router(), new_router("--no-verbs")
    second.echo("echo")
    first.describe("m", f"{second.address} /\n")
    first.open(".kaiso/open m/echo").send(b"hello").receive(8)
    client = first.open(".kaiso/open m/nothing")
    assert client.receive_all() == b"+\r\n"


def test_header_goes_before_the_word(asked):
    """Of the PROXY protocol: before the word, and again before the plain line."""
    router, kaiso, name = asked
    router.describe("near", f"{kaiso.address} {'far' if name == 'near' else '/'}\nproxy v1\n")
    client = router.open(f".kaiso/open {name}")
    for line in (b".kaiso/open far\r\n", b"far\r\n"):
        peer = kaiso.accept()
        assert peer.receive_line().startswith(b"PROXY TCP4 127.0.0.1 ")
        assert peer.receive_line() == line
        if line.startswith(b".kaiso"):
            peer.close()
    peer.send(b"hello")
    assert client.receive(8) == b"+\r\nhello"


def test_path_without_room_for_the_word(asked):
    """It fits a plain line, and is asked for by that."""
    router, kaiso, name = asked
    longest = "x" * 4083
    router.describe("near", f"{kaiso.address} {longest}{'' if name == 'near' else '/'}\n")
    router.open(f".kaiso/open {'near' if name == 'near' else 'near/y'}")
    line = kaiso.accept().receive_line()
    assert line == (longest + ("\r\n" if name == "near" else "/y\r\n")).encode()


@pytest.mark.parametrize("answer", [b"\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"x" * 200, b"-\r\n"])
def test_garbage_for_a_verdict(asked, answer):
    """Who speaks otherwise is no kaiso: unavailable."""
    router, kaiso, name = asked
    client = router.open(f".kaiso/open {name}")
    kaiso.accept().send(answer)
    expect_refusal(client, "unavailable")


def test_verdict_that_never_comes(new_router):
    """It is waited for as long as a connection is."""
    router = new_router("--connect-timeout", "300ms")
    kaiso = router.backend_tcp()
    router.describe("near", f"{kaiso.address} /\n")
    client = router.open(".kaiso/open near/far")
    peer = kaiso.accept()
    expect_refusal(client, "timeout")
    router.wait_session(client, reason="timeout")
    assert peer.receive_line() == b".kaiso/open far\r\n"
    peer.expect_closed()


def test_client_goes_while_the_verdict_is_awaited(asked):
    """Then so does the connection to the other router."""
    router, kaiso, name = asked
    client = router.open(f".kaiso/open {name}")
    peer = kaiso.accept()
    peer.receive_line()
    client.reset()
    peer.expect_closed()
    router.wait_session(client, reason="client-reset")


# ---- several targets

@pytest.mark.parametrize("code, goes_on", [(code, code in ("unavailable", "timeout", "limit")) for code in CODES])
@pytest.mark.parametrize("path", ["near", "near/far"])
def test_refusal_with_another_target(router, path, code, goes_on):
    """Another router may have a service that this one cannot reach. What it is said not to have, or not to give, is final."""
    one, other = router.backend_tcp(), router.backend_tcp()
    service = "far" if path == "near" else "/"
    router.describe("near", f"{one.address} {service}\nbackend {other.address} {service}\n")
    client = router.connect().send(b".kaiso/open %s\nahead" % path.encode())
    peer = one.accept()
    peer.receive_line()
    peer.send(b"-%s words\r\n" % code.encode())
    if not goes_on:
        expect_refusal(client, code)
        other.assert_untouched()
        return
    peer.close()
    peer = other.accept()
    assert peer.receive_line() == b".kaiso/open far\r\n"
    peer.send(b"+\r\nhello")
    assert client.receive(8) == b"+\r\nhello"
    assert peer.receive(5) == b"ahead"


def test_last_refusal_is_told(router):
    """When none has it, what the last one said."""
    targets = [router.backend_tcp() for _ in range(3)]
    first, *others = [f"{target.address} /\n" for target in targets]
    router.describe("near", first + "".join(f"backend {other}" for other in others))
    client = router.open(".kaiso/open near/far")
    for target, code in zip(targets, (b"unavailable", b"limit", b"timeout")):
        with target.accept() as peer:
            peer.receive_line()
            peer.send(b"-%s words\r\n" % code)
    expect_refusal(client, "timeout")


def test_refusal_of_a_service_is_no_failure_of_the_router(router):
    """One service of a mount is down: its router is asked for the others as before, and first."""
    one, other = router.backend_tcp(), router.backend_tcp()
    router.describe("near", f"{one.address} /\nbackend {other.address} /\n")
    for _ in range(5):
        client = router.open(".kaiso/open near/down")
        for target in (one, other):
            with target.accept() as peer:
                peer.receive_line()
                peer.send(b"-unavailable words\r\n")
        expect_refusal(client, "unavailable")
    router.open("near/up")
    assert one.accept().receive_line() == b"up\r\n"


def test_targets_of_both_kinds(router):
    """After a router that refused, one without words for tools, and then a service that is no router's."""
    kaiso, end = router.backend_tcp(), router.service_tcp(None, echo)
    first = router.keep(FirstKaiso({}))
    router.describe("near", f"{kaiso.address} far\nbackend {end.address}\n")
    client = router.connect().send(b".kaiso/open near\nahead")
    with kaiso.accept() as peer:
        peer.receive_line()
        peer.send(b"-unavailable words\r\n")
    assert client.receive(8) == b"+\r\nahead"
    port, holder = closed_port()
    with holder:
        router.describe("near", f"127.0.0.1:{port} far\nbackend {first.address} far\nbackend {end.address}\n")
        assert router.open(".kaiso/open near").receive_all() == b"+\r\n"  # it may be a service that says nothing


def test_silent_targets_share_the_time(new_router):
    """Each has its part of the time to connect, with its verdict."""
    router = new_router("--connect-timeout", "1s")
    silent, kaiso = router.backend_tcp(), router.backend_tcp()
    router.describe("near", f"{silent.address} far\nbackend {kaiso.address} far\n")
    client = router.open(".kaiso/open near")
    peer = kaiso.accept()
    peer.send(b"+\r\n")
    assert client.receive(3) == b"+\r\n"
    silent.accept().receive_all()


# ---- upgrades

def _upgrade(router):
    count = len(router.log.find(msg="upgraded")) + 1
    router.signal(signal.SIGUSR2)
    router.log.wait(count, msg="upgraded")


@pytest.mark.parametrize("answer", ["+", "-", "end"])
def test_upgrade_while_the_verdict_is_awaited(asked, answer):
    """It comes to the new program, whatever it is."""
    router, kaiso, name = asked
    client = router.connect().send(b".kaiso/open %s\nahead" % name.encode())
    peer = kaiso.accept()
    assert peer.receive_line() == b".kaiso/open far\r\n"
    _upgrade(router)
    if answer == "-":
        peer.send(b"-denied words\r\n")
        expect_refusal(client, "denied")
        return
    if answer == "end":
        peer.close()
        peer = kaiso.accept()
        assert peer.receive(5) == b"far\r\n"
    else:
        peer.send(b"+\r\n")
    assert peer.receive(5) == b"ahead"
    peer.send(b"hello")
    assert client.receive(8) == b"+\r\nhello"


# ---- programs

def test_connect_tells_it(new_router):
    """`kaiso connect` through two routers: its words, and its exit status."""
    first, second = new_router(), new_router()
    second.echo("echo")
    second.backend("dead").close()
    first.describe("attic", f"{second.address} /\n")
    first.describe("video", f"{second.address} video\n")
    for name, status, words in (
            ("attic/dead", 5, b"(unavailable); is its server running?"),
            ("video", 3, b"(not-found); it is in the list, but leads to another router, which has no such service"),
            ("attic/nothing", 3, b"(not-found); `kaiso ls %s 'attic/'` lists" % first.address.encode()),
            ("atic", 3, b"did you mean 'attic/'?")):
        result = run_kaiso("connect", first.address, name)
        assert result.returncode == status and words in result.stderr, result
    wait_until(lambda: len(second.log.find(msg="session")) >= 3, "the sessions behind it")


def test_connect_without_words_for_tools(new_router):
    """A service behind a mount may end without a byte, though no list here has it."""
    first, second = new_router("--no-verbs"), new_router()
    second.service("silent", lambda stream: None)
    first.describe("attic", f"{second.address} /\n")
    result = run_kaiso("connect", first.address, "attic/silent")
    assert (result.returncode, result.stderr) == (0, b"")
    result = run_kaiso("connect", first.address, "silent")
    assert result.returncode == 3 and b"it is not in the router's list" in result.stderr
