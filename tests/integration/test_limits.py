"""Limits and time: each refuses by its reason, harms no established session, and ends (the protocol, section 3)."""

import resource

import pytest

from harness.services import closed_port
from harness.stream import noise
from harness.wait import IS_SANITIZED, Task, wait_until


def works(router, service="echo", **where):
    """Whether a client is served right now."""
    with router.connect(**where) as client:
        try:
            client.line(service).send(b"hello")
            return client.sock.recv(5) == b"hello"
        except OSError:
            return False


def expect_limit(router, client):
    """Accepted and closed at once, with reason limit."""
    client.expect_closed()
    router.wait_session(client, reason="limit")


def test_sessions_in_all(new_router):
    """The one over --max-sessions is closed at once; when one ends the next fits."""
    router = new_router("--max-sessions", "3")
    router.echo("echo")
    clients = [router.open("echo").exchange(b"hello") for _ in range(3)]
    for _ in range(3):
        expect_limit(router, router.connect())
    for client in clients:
        client.exchange(b"unharmed")
    clients.pop().end().expect_end()
    wait_until(lambda: works(router), "a free session")
    for client in clients:
        client.exchange(b"unharmed")


def test_sessions_of_an_address(new_router):
    """--max-sessions-per-address counts each client address by itself."""
    router = new_router("--max-sessions-per-address", "2")
    router.echo("echo")
    ones = [router.connect(source="127.0.0.1").line("echo").exchange(b"x") for _ in range(2)]
    expect_limit(router, router.connect(source="127.0.0.1"))
    twos = [router.connect(source="127.0.0.2").line("echo").exchange(b"x") for _ in range(2)]
    expect_limit(router, router.connect(source="127.0.0.2"))
    for client in ones + twos:
        client.exchange(b"unharmed")
    ones.pop().end().expect_end()
    wait_until(lambda: works(router, source="127.0.0.1"), "a free session")
    expect_limit(router, router.connect(source="127.0.0.2"))


def test_sessions_of_many_addresses(new_router):
    """The counts of addresses that are gone take no room and do no harm."""
    router = new_router("--max-sessions-per-address", "1")
    router.echo("echo")
    for _ in range(2):
        for number in range(1, 200):
            wait_until(lambda: works(router, source=f"127.0.1.{number}"), "the address to be served")


def test_clients_that_were_handed_over_count_no_more(new_router):
    """They are the receiver's. (A session is counted a moment longer than its line in the log tells.)"""
    router = new_router("--max-sessions", "4", "--max-sessions-per-address", "4")
    receiver = router.receiver("pass", lasting=True)
    clients = []
    for _ in range(12):
        clients.append(router.open("pass"))
        receiver.take()
        router.wait_session(clients[-1], reason="handed-over")
    for client in clients:
        client.send(b"x")


def test_memory_of_services_is_bounded(router):
    """Services asked for once each are not remembered for ever."""
    router.echo("echo")
    for count in range(3000):
        router.link(f"{count}-" + "n" * 200, "echo")

    def ask_for_all():
        for count in range(3000):
            with router.open(f"{count}-" + "n" * 200) as client:
                client.exchange(b"x")

    router.open("echo").exchange(b"x").close()
    before = router.rss()
    ask_for_all()
    if not IS_SANITIZED:
        assert router.rss() - before < 4 << 20


def test_limits_by_address_are_off_by_default(router):
    """Many clients may stand behind one address."""
    router.echo("echo")
    clients = [router.open("echo") for _ in range(300)]
    for client in clients:
        client.exchange(b"hello")


def test_requests_of_an_address(new_router):
    """--max-requests-per-second: what is over it is refused, other addresses and the next seconds are not."""
    router = new_router("--max-requests-per-second", "5")
    router.echo("echo")
    session = router.connect(source="127.0.0.2").line("echo").exchange(b"hello")
    outcomes = [works(router, source="127.0.0.1") for _ in range(60)]
    assert any(outcomes[:5]) and not all(outcomes)
    router.wait_log(msg="session", reason="limit")
    assert works(router, source="127.0.0.3")
    session.exchange(b"unharmed")
    wait_until(lambda: works(router, source="127.0.0.1"), "the next second")


def test_lists_at_a_time(new_router):
    """--max-lists: so many lists may be on their way at a time; others are refused, until those are made."""
    router = new_router("--max-lists", "3")
    for count in range(20_000):
        if count % 10_000 == 0:
            source = router.root / f"source-{count}"
            source.write_text("127.0.0.1:9\n")
        (router.services / f"{count:05}").hardlink_to(source)
    router.echo("echo")
    session = router.open("echo").exchange(b"hello")
    whole = len(router.list())
    clients = [router.connect() for _ in range(60)]
    for client in clients:
        client.send(b".kaiso/list\r\n")
    session.exchange(b"unharmed")
    sizes = [len(client.end().receive_all()) for client in clients]
    assert 0 in sizes and sum(size > whole for size in sizes) >= 3
    for client, size in zip(clients, sizes):
        if size == 0:
            router.wait_session(client, reason="limit", limit="max-lists")
    assert len(router.list()) == whole


def test_lists_that_nobody_takes(new_router):
    """Clients that read nothing of their lists keep no others from getting theirs."""
    router = new_router("--max-lists", "3")
    for count in range(2000):
        (router.services / f"{count:05}-{'n' * 200}").write_text("127.0.0.1:9\n")
    whole = len(router.list())
    greedy = []
    for _ in range(10):
        greedy.append(router.connect(receive_buffer=4096).send(b"\r\n"))
        greedy[-1].receive(1)
    with router.connect() as client:
        client.line("").end()
        assert len(client.receive_all()) == whole
    assert len(greedy[0].end().receive_all()) == whole - 1


def test_request_timeout(new_router):
    """A complete line must come in time: from a client that says nothing and from one that dribbles on."""
    router = new_router("--request-timeout", "300ms")
    router.echo("echo")
    session = router.open("echo").exchange(b"hello")
    silent = router.connect()
    dribbling = router.connect()

    def dribble():
        try:
            wait_until(lambda: dribbling.sock.send(b"x") == 0, "the end", interval=0.02)
        except OSError:
            return True

    ending = Task(dribble)
    silent.expect_closed()
    assert ending.join()
    router.wait_session(silent, reason="request-timeout")
    router.wait_session(dribbling, reason="request-timeout")
    session.exchange(b"an established session is not meant")


def test_request_timeout_behind_a_list(new_router):
    """Each line has its time: who lists and then says nothing is ended too, and who takes no list."""
    router = new_router("--request-timeout", "400ms")
    for count in range(100):
        (router.services / f"{count:03}-{'n' * 200}").write_text("127.0.0.1:9\n")
    router.mkdir("empty")
    silent = router.connect().line("empty/")
    assert silent.receive_list() == b"\r\n"
    stuck = router.connect(receive_buffer=4096).send(b"\r\n" * 2000)
    silent.expect_closed()
    router.wait_session(silent, reason="request-timeout")
    router.wait_session(stuck, reason="request-timeout")


def test_request_timeout_of_zero_is_none(new_router):
    """0 for none."""
    router = new_router("--request-timeout", "0", "--idle-timeout", "100ms", "--connect-timeout", "0")
    router.echo("echo")
    silent = router.connect()
    idle = router.open("echo").exchange(b"hello")
    idle.expect_end()
    router.wait_session(idle, reason="idle-timeout")
    silent.line("echo").exchange(b"hello")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_connect_timeout(new_router, kind):
    """A service whose backlog stays full is given up in time, and others are served meanwhile."""
    router = new_router("--connect-timeout", "300ms")
    router.echo("echo")
    backend = router.backend("foo", backlog=1) if kind == "unix" else router.backend_tcp("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.open("foo")
    router.open("echo").exchange(b"hello")
    client.expect_closed()
    router.wait_session(client, reason="timeout", service="foo")
    for filler in fillers:
        filler.close()


def test_idle_timeout(new_router):
    """A session without traffic ends at both ends; one with traffic in either direction lives on."""
    router = new_router("--idle-timeout", "400ms")
    backend = router.backend("foo")
    busy_up, busy_down = router.open("foo"), None
    up_peer = backend.accept()
    busy_down = router.open("foo")
    down_peer = backend.accept()
    idle = router.open("foo")
    idle_peer = backend.accept()

    def is_over():
        busy_up.send(b"x")
        assert up_peer.receive(1) == b"x"
        down_peer.send(b"y")
        assert busy_down.receive(1) == b"y"
        return router.log.find(msg="session", client=idle.name)

    wait_until(is_over, "the idle session to end", interval=0.02)
    router.wait_session(idle, reason="idle-timeout")
    idle_peer.expect_end()
    idle.expect_end()
    busy_up.send(b"x")
    assert up_peer.receive(1) == b"x"


def test_descriptors_run_out(new_router):
    """Accepted and closed at once with a descriptor held in reserve; goes on as soon as some are free, never spins,
    and never harms an established session. The first kaiso crashed."""
    router = new_router("--threads", "1", wrapper=("prlimit", "--nofile=64:64"))
    router.echo("echo")
    clients, refused = [], []
    for _ in range(60):
        client = router.open("echo")
        try:
            client.send(b"hello")
            answer = client.sock.recv(5)
        except OSError:
            answer = b""
        (clients if answer == b"hello" else refused).append(client)
    assert len(clients) >= 12 and len(refused) >= 20
    router.wait_log(msg="session", reason="limit")
    router.assert_quiet()
    for client in clients:
        client.exchange(b"unharmed")
    for client in refused:
        client.close()
    for client in clients[:6]:
        client.end().expect_end()
    for _ in range(3):
        wait_until(lambda: works(router), "free descriptors")
    for client in clients[6:]:
        client.exchange(b"unharmed")


def test_descriptors_run_out_for_silent_clients(new_router):
    """The same when clients that say nothing hold them all: whoever comes is told by a close, not left waiting."""
    router = new_router("--threads", "1", wrapper=("prlimit", "--nofile=64:64"))
    router.echo("echo")
    session = router.open("echo").exchange(b"hello")
    silent = [router.connect() for _ in range(80)]
    silent[-1].expect_closed()
    router.assert_quiet()
    session.exchange(b"unharmed")
    for client in silent:
        client.close()
    wait_until(lambda: works(router), "free descriptors")


def test_the_reserve_comes_back(new_router):
    """A reserve that was lost (to another thread; here it is above the limit) is there again for the next time."""
    router = new_router("--threads", "1")
    router.echo("echo")
    limits = resource.prlimit(router.pid, resource.RLIMIT_NOFILE)
    files = router.fds()["file"]
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    client = router.open("echo")
    wait_until(lambda: router.fds()["file"] < files, "the reserve to be given up")
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, limits)
    client.exchange(b"hello")
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (sum(router.fds().values()) + 10, limits[1]))
    silent = [router.connect() for _ in range(40)]
    silent[-1].expect_closed()


def test_descriptors_run_out_in_bulk(new_router):
    """Without descriptors for pipes, bytes move all the same."""
    router = new_router("--threads", "1", wrapper=("prlimit", "--nofile=64:64"))
    router.echo("echo")
    clients = []
    while True:
        client = router.open("echo")
        try:
            client.send(b"hello")
            if client.sock.recv(5) != b"hello":
                break
        except OSError:
            break
        clients.append(client)
    for client in clients:
        sending = Task(client.send, noise(500_000))
        assert client.receive(500_000) == noise(500_000)
        sending.join()


def test_descriptors_run_out_for_lists_and_hand_overs(new_router):
    """Lists and hand-overs refused for want of descriptors do not break the router."""
    router = new_router("--threads", "1", wrapper=("prlimit", "--nofile=64:64"))
    router.echo("echo")
    receiver = router.receiver("pass", lasting=True)
    silent = [router.connect() for _ in range(80)]
    for line in ("", "pass", "echo", ".kaiso/list", "nothing"):
        try:
            router.open(line).expect_closed()
        except ConnectionResetError:
            pass
    for client in silent:
        client.close()
    wait_until(lambda: works(router), "free descriptors")
    assert router.list() == b"echo\r\npass\r\n\r\n"
    router.open("pass").send(b"hello").end()
    assert receiver.take().receive_all() == b"hello"


def test_refusals_are_logged_with_their_reason(new_router):
    """Each by its word, with the service asked for."""
    router = new_router("--request-timeout", "200ms")
    port, holder = closed_port()
    router.describe("closed", f"127.0.0.1:{port}\n")
    router.describe("bad", "a:b:c\n")
    with holder:
        for line, reason in (("nothing", "not-found"), ("closed", "unavailable"), ("bad", "invalid")):
            client = router.open(line)
            client.expect_closed()
            router.wait_session(client, reason=reason, service=line, sent=0, received=0)
        client = router.connect()
        client.expect_closed()
        router.wait_session(client, reason="request-timeout")


def test_flood_of_refusals(new_router):
    """A thousand refused clients leave a router that is quiet and serves the next."""
    router = new_router("--max-sessions", "10")
    router.echo("echo")
    held = [router.open("echo").exchange(b"hello") for _ in range(10)]
    for _ in range(1000):
        router.connect().close()
    router.wait_log(msg="session", reason="limit")
    for client in held:
        client.exchange(b"unharmed").close()
    wait_until(lambda: works(router), "a free session")
    router.wait_fds_back()
