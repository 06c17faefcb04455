"""Option lines: what they say of a service, and what a directory says of all below it."""

import os
import time

import pytest

from harness.namespaces import can_lease, public_kaiso, with_leases_alone
from harness.services import closed_port
from harness.wait import IS_SANITIZED, wait_until


def served_by(router, path, **where):
    """The word that the service answers with."""
    client = router.open(path, **where)
    word = client.receive_all()
    client.close()
    return word


def name_tag(word):
    def handler(stream):
        stream.send(word)
    return handler


@pytest.fixture
def nobody():
    """A port where nobody listens."""
    port, holder = closed_port()
    with holder:
        yield port


# ---- nearest wins

def test_the_nearest_wins(router):
    """What a description says counts before its directory's word, and that before those above."""
    router.mkdir("d/e")
    router.echo("d/e/foo")
    router.describe("d/e/open", "d/e/foo\nallow 127.0.0.0/8\ndeny 192.0.2.1\n")
    router.describe(".kaiso", "deny 127.0.0.0/8\n")
    router.open("d/e/foo").expect_closed()
    router.open("d/e/open").exchange(b"hello")  # its own deny, and its own allow
    router.describe("d/.kaiso", "deny 192.0.2.0/24\n")
    router.open("d/e/foo").exchange(b"hello")
    router.open("d/e/open").exchange(b"hello")
    router.describe("d/e/.kaiso", "# nothing\n")
    router.open("d/e/foo").exchange(b"hello")
    os.unlink(router.path("d/.kaiso"))
    router.open("d/e/foo").expect_closed()


def test_what_may_not_be_opened_is_not_there(router):
    """To the client as if nothing was there, by whatever word it asks; the log knows better."""
    router.echo("foo")
    router.describe("closed", "foo\ndeny 127.0.0.1\n")
    client = router.open(".kaiso/open closed")
    assert client.receive_line().startswith(b"-not-found ")
    router.wait_session(client, reason="not-allowed", service="closed")
    client = router.open(".kaiso/open missing")
    assert client.receive_line().startswith(b"-not-found ")


def test_a_socket_that_may_not_be_opened_is_not_connected(router):
    """Its server notices nothing."""
    backend = router.backend("d/foo")
    router.describe("d/.kaiso", "allow 192.0.2.0/24\n")
    router.open("d/foo").expect_closed()
    backend.assert_untouched()


# ---- limits and times

def test_max_sessions(router):
    """So many at a time of this service, whatever others do; one that ends makes room."""
    router.echo("foo")
    router.describe("few", "foo\nmax-sessions 2\n")
    first, second = (router.open("few").exchange(b"hello") for _ in range(2))
    client = router.open("few")
    client.expect_closed()
    router.wait_session(client, reason="limit", limit="max-sessions of the service")
    client = router.open(".kaiso/open few")
    assert client.receive_line().startswith(b"-limit ")
    router.open("foo").exchange(b"hello")
    second.close()
    wait_until(lambda: router.open(".kaiso/open few").receive_line() == b"+\r\n" or None, "room for another one")
    first.exchange(b"still here")


def test_idle_timeout(new_router):
    """A service's own word counts instead of the router's, also where it is none."""
    router = new_router("--idle-timeout", "300ms")
    router.echo("foo")
    router.describe("short", "foo\nidle-timeout 50ms\n")
    router.describe("long", "foo\nidle-timeout 0\n")
    held = router.open("long").exchange(b"hello")
    started = time.monotonic()
    client = router.open("short").exchange(b"hello")
    client.expect_closed()
    assert time.monotonic() - started < 0.3
    router.wait_session(client, reason="idle-timeout")
    client = router.open("foo").exchange(b"hello")
    client.expect_closed()
    held.exchange(b"still here")


def test_connect_timeout(router):
    """A service's own word, over all that is tried."""
    full = router.backend("full", backlog=0)
    full.fill_backlog()
    router.describe("short", "full\nconnect-timeout 50ms\n")
    started = time.monotonic()
    client = router.open("short")
    client.expect_closed()
    assert time.monotonic() - started < 5
    router.wait_session(client, reason="timeout")


# ---- several targets

def test_the_next_one_is_tried(router, nobody):
    """Targets that refuse are passed over, of whatever kind they are."""
    far = router.service_tcp("far", name_tag(b"here"))
    router.backend("gone").close()
    router.describe("foo", f"127.0.0.1:{nobody}\nbackend gone\nbackend missing\nbackend {far.address}\n")
    for _ in range(3):
        assert served_by(router, "foo") == b"here"


def test_none_is_left(router, nobody):
    """When all refuse the client is told, with the reason of the last."""
    router.describe("foo", f"127.0.0.1:{nobody}\nbackend 127.0.0.1:{nobody}\n")
    client = router.open(".kaiso/open foo")
    assert client.receive_line().startswith(b"-unavailable ")


@pytest.mark.parametrize("balance, expected", [
    ("first", [b"1"] * 6),
    ("round-robin", [b"1", b"2", b"3"] * 2),
])
def test_balance(router, balance, expected):
    """In the order of the lines, or one after the other in turns."""
    for number in (1, 2, 3):
        router.service(f".s{number}", name_tag(b"%d" % number))
    router.describe("foo", f".s1\nbackend .s2\nbackend .s3\nbalance {balance}\n")
    got = [served_by(router, "foo") for _ in range(6)]
    assert sorted(got) == sorted(expected), got
    if balance == "round-robin":
        assert len(set(got[:3])) == 3, got


def test_least_sessions(router):
    """New clients go where the fewest are."""
    router.echo(".s1")
    router.service(".s2", name_tag(b"two"))
    router.describe("foo", ".s1\nbackend .s2\nbalance least-sessions\n")
    held, served = [], 0
    while not held or served < 4:
        client = router.open("foo").send(b"x")
        if client.receive(1) == b"x":
            held.append(client)
            continue
        served += len(held)
        client.close()
        router.wait_session(client)  # or it might still count, and nobody have fewer
    assert len(held) == 1


def test_handing_over_to_the_next(router, nobody):
    """A receiver that is away is passed over like any target, and the client's bytes are whole."""
    receiver = router.receiver("only", socket_name=".receiver")
    router.describe("foo", f".gone passfd\nbackend 127.0.0.1:{nobody}\nbackend .receiver passfd\n")
    client = router.open("foo").send(b"hello").end()
    assert receiver.take().receive_all() == b"hello"
    client.close()


def test_from_a_receiver_to_a_relay(router):
    """The line has been taken from the socket already: the relay does not skip it again."""
    router.echo(".echo")
    router.describe("foo", ".gone passfd\nbackend .echo\n")
    router.open("foo").exchange(b"hello")
    client = router.open(".kaiso/open foo")
    assert client.receive_line() == b"+\r\n"
    client.exchange(b"hello")


# ---- being edited

def test_half_written(router):
    """While somebody is writing an option file nobody is let in by what is not there yet."""
    router.echo("foo")
    with open(router.path(".kaiso"), "wb") as file:
        client = router.open("foo").send(b"x")
        time.sleep(0.1)
        file.write(b"deny 127.0.0.1\n")
    client.expect_closed()
    router.wait_session(client, reason="not-allowed")


@pytest.mark.skipif(IS_SANITIZED, reason="about rights, which are the same in every build")
@pytest.mark.skipif(os.geteuid() != 0 or not can_lease(), reason="only root can lend the right to take leases")
@pytest.mark.parametrize("who, owner", [("root", 65534), ("nobody", 0), ("as in the unit", 0)])
def test_a_writer_who_pauses(new_router, who, owner):
    """For as long as it takes, though the file belongs to somebody else: a half-written one is not believed."""
    router = new_router(*(["--user", who] if who == "nobody" else []), start=False)
    router.root.chmod(0o755)
    router.services.chmod(0o755)
    if who == "as in the unit":
        router.wrapper = (*with_leases_alone("--reuid=65534", "--regid=65534", "--clear-groups"),
                          "/bin/sh", "-c", f"shift; exec '{public_kaiso(router.root)}' \"$@\"", "sh")
    router.start()
    router.echo("foo")
    os.chmod(router.path("foo"), 0o777)
    router.describe(".kaiso", "deny 127.0.0.1\n")
    os.chown(router.path(".kaiso"), owner, owner)
    router.open("foo").expect_closed()
    with open(router.path(".kaiso"), "wb") as file:
        client = router.open("foo").send(b"x")
        time.sleep(0.4)
        file.write(b"deny 127.0.0.1\n")
    client.expect_closed()
    router.wait_session(client, reason="not-allowed")
