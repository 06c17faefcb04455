"""srv: targets, with real name servers: what they say, that it changes, that they are away."""

import itertools
import os
import signal
import socket
import threading
import time

import pytest

from harness.dns import free_port, new_name_server  # noqa: F401 (a fixture)
from harness.exposer import Exposer
from harness.router import run_kaiso
from harness.services import Service, bind_tcp
from harness.wait import IS_SANITIZED, wait_until

NAME = "_http._tcp.example.test"
AWAY = "service name cannot be looked up; its last answer goes on"
BACK = "service name can be looked up again"
BOTH = pytest.mark.parametrize("program", ["dnsmasq", "unbound"])


def say(word):
    """A service that says its name and closes."""

    def handler(stream):
        stream.send(word)

    return handler


@pytest.fixture
def targets(new_router):
    """Two services, "one" and "two": their ports. (The router is a place to keep them.)"""
    keeper = new_router(start=False)
    return [keeper.service_tcp(None, say(word)).port for word in (b"one", b"two")]


def only(port):
    return {NAME: [(1, 1, port, "h1.test")]}


HOSTS = {"h1.test": "127.0.0.1", "h2.test": "127.0.0.1"}


def start(new_router, server, *options):
    router = new_router("--dns", server.address, "--connect-timeout", "5s", *options)
    router.describe("web", f"srv:{NAME}\n")
    return router


def get(router):
    """What the service says: b"" when the client was turned away."""
    with router.connect() as client:
        return client.line("web").receive_all()


@BOTH
def test_priority_comes_first(new_router, new_name_server, targets, program):
    server = new_name_server(program, {NAME: [(20, 5, targets[0], "h1.test"), (10, 0, targets[1], "h2.test")]}, HOSTS)
    router = start(new_router, server)
    assert [get(router) for _ in range(20)] == [b"two"] * 20


@BOTH
def test_weight_counts(new_router, new_name_server, targets, program):
    server = new_name_server(program, {NAME: [(1, 1, targets[0], "h1.test"), (1, 9, targets[1], "h2.test")]}, HOSTS)
    router = start(new_router, server)
    said = [get(router) for _ in range(100)]
    assert said.count(b"one") + said.count(b"two") == 100
    assert 1 <= said.count(b"one") <= 40  # 10 are likely; 0, or more than 40, less than once in 10 000 times


@BOTH
def test_targets_change_under_load(new_router, new_name_server, targets, program):
    """No client is turned away, and soon all reach the new one."""
    server = new_name_server(program, only(targets[0]), HOSTS)
    router = start(new_router, server)
    said, is_over = [], threading.Event()

    def load():
        while not is_over.is_set():
            said.append(get(router))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(said) > 50, "some clients")
        server.zone = only(targets[1])
        server.reload()
        wait_until(lambda: said[-20:] == [b"two"] * 20, "the new target")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(said) == {b"one", b"two"}


def test_last_answer_goes_on_while_dns_is_away(new_router, new_name_server, targets):
    """The log tells it once, whatever the threads, and its end."""
    server = new_name_server("dnsmasq", only(targets[0]), HOSTS)
    router = start(new_router, server, "--threads", "2")
    assert get(router) == b"one"
    server.stop()
    wait_until(lambda: get(router) == b"one" and router.log.find(msg=AWAY), "the log to tell")
    for _ in range(20):
        assert get(router) == b"one"
    server.zone = only(targets[1])
    server.start()
    line = router.log.wait(msg=BACK)
    assert line["name"] == NAME
    wait_until(lambda: [get(router) for _ in range(8)] == [b"two"] * 8, "the new answer")
    assert len(router.log.find(msg=AWAY)) == len(router.log.find(msg=BACK)) == 1


@BOTH
@pytest.mark.parametrize("zone, hosts", [
    ({}, {}),  # no such name
    ({}, {NAME: "127.0.0.1"}),  # something else by that name
    ({NAME: [(0, 0, 0, ".")]}, {}),  # decidedly not available
    ({NAME: [(1, 1, 80, "absent.test")]}, {}),  # a host without an address
])
def test_there_is_no_service(new_router, new_name_server, program, zone, hosts):
    router = start(new_router, new_name_server(program, zone, hosts))
    with router.connect() as client:
        client.line("web").expect_closed()
        router.wait_session(client, reason="unavailable")


def test_service_appears(new_router, new_name_server, targets):
    """That there is none is not believed for long."""
    server = new_name_server("unbound", {}, HOSTS)
    router = start(new_router, server)
    assert get(router) == b""
    server.zone = only(targets[0])
    server.reload()
    wait_until(lambda: get(router) == b"one", "the service", interval=0.1)


@BOTH
@pytest.mark.skipif(IS_SANITIZED, reason="says nothing that the unit test does not")
def test_a_hundred_targets(new_router, new_name_server, program):
    """The answer is too large for a datagram: it comes over TCP. All are used."""
    used = set()
    listener = bind_tcp("0.0.0.0")
    numbers = range(1, 101)
    server = new_name_server(program, {NAME: [(1, 1, listener.getsockname()[1], f"h{n}.test") for n in numbers]},
                             {f"h{n}.test": f"127.0.0.{n}" for n in numbers}, ttl=60)
    router = start(new_router, server)
    router.keep(Service(listener, lambda stream: used.add(stream.sock.getsockname()[0]) or stream.send(b"one")))
    for _ in range(150):
        assert get(router) == b"one"
    assert len(used) > 50  # 78 are likely


def test_next_server_when_the_first_is_not_there(new_router, new_name_server, targets):
    server = new_name_server("unbound", only(targets[0]), HOSTS)
    # c-ares waits for one of two answers that were refused at once: 2 s if nobody says otherwise.
    router = new_router("--dns", f"127.0.0.1:{free_port()}", "--dns", server.address, env={"RES_OPTIONS": "retrans:200"})
    router.describe("web", f"srv:{NAME}\n")
    assert get(router) == b"one"


@pytest.mark.ipv6
def test_server_with_an_ipv6_address(new_router, new_name_server, targets):
    server = new_name_server("unbound", only(targets[0]), HOSTS, host="::1")
    router = start(new_router, server)
    assert get(router) == b"one"


def test_names_of_hosts_are_asked_there_too(new_router, new_name_server, targets):
    """HOST:PORT of a description, and the kaiso of `kaiso expose`."""
    server = new_name_server("dnsmasq", {}, HOSTS)
    router = start(new_router, server)
    router.describe("web", f"h1.test:{targets[0]}\n")
    assert get(router) == b"one"
    exposer = new_router(kind=Exposer, kaiso=f"h2.test:{router.port}",
                         command=["expose", "--dns", server.address, f"h2.test:{router.port}", "web", "127.0.0.1:0"])
    with exposer.connect() as client:
        assert client.receive_all() == b"one"


def stop_at_once(router):
    """It still asks, and would for some seconds."""
    router.signal(signal.SIGTERM)
    assert router.wait_exit() == 0
    router.is_stopped = True
    router.check_log()


def rude_server(sock, is_over):
    """Says nothing that makes sense: noise, the question itself, noise that begins like an answer."""
    sock.settimeout(0.05)
    for turn in itertools.count():
        try:
            query, asker = sock.recvfrom(2048)
        except TimeoutError:
            if is_over.is_set():
                return
            continue
        head = query[:2] + bytes([0x84, 0x80]) + query[4:6] + b"\0\3" + query[8:]
        for answer in (os.urandom(turn % 40), query, head + os.urandom(turn * 7 % 500), b"")[turn % 4:turn % 4 + 1]:
            sock.sendto(answer, asker)


def test_server_talks_nonsense(new_router, new_name_server, targets):
    """Clients are turned away in their time, and the router goes on."""
    del new_name_server
    is_over = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=rude_server, args=(sock, is_over))
        thread.start()
        router = new_router("--dns", f"127.0.0.1:{sock.getsockname()[1]}", "--connect-timeout", "300ms")
        clients = []
        for number in range(40):
            router.describe(f"web{number}", f"srv:_n{number}._tcp.example.test\n")
            clients.append(router.open(f"web{number}"))
        for client in clients:
            client.expect_closed()
        router.describe("other", f"127.0.0.1:{targets[0]}\n")
        with router.open("other") as client:
            assert client.receive_all() == b"one"
        stop_at_once(router)
        is_over.set()
        thread.join()


def test_silent_server_costs_no_more_than_the_connect_timeout(new_router):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        router = new_router("--dns", f"127.0.0.1:{sock.getsockname()[1]}", "--connect-timeout", "300ms")
        router.describe("web", f"srv:{NAME}\n")
        begun = time.monotonic()
        with router.connect() as client:
            client.line("web").expect_closed()
            router.wait_session(client, reason="timeout")
        assert time.monotonic() - begun < 5
        stop_at_once(router)


@pytest.mark.parametrize("words", [["name.test"], ["127.0.0.1:0"], ["127.0.0.1:x"], [":53"], [""], ["::1:53:x"], ["[::1"],
                                   [f"127.0.0.{number}" for number in range(1, 10)]])
@pytest.mark.parametrize("command", [["serve"], ["expose", "127.0.0.1", "web", "127.0.0.1:0"]])
def test_words_that_are_no_name_servers(words, command):
    options = [part for word in words for part in ("--dns", word)]
    result = run_kaiso(command[0], *options, *command[1:])
    assert result.returncode == 2
    assert b"expected the address of a name server" in result.stderr
