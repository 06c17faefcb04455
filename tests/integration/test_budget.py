"""What a client costs in system calls (doc/performance.md): one more on a hot path is seen here, not in a benchmark."""

import os
import re

import pytest

from harness.wait import wait_until

CLIENTS = 20

# All that a router does for its clients. Not what a sanitizer does beside.
CALLS = re.compile(r"^\d+ +(accept4|recv\w*|send\w*|splice|epoll_\w+|connect|socket|newfstatat|close|shutdown|ioctl|poll|"
                   r"getsockname|getpeername|[gs]etsockopt|fcntl|pipe2|openat|write)\(", re.MULTILINE)


class Trace:
    """A router below strace(1): one thread, so that its calls come in their order."""

    def __init__(self, new_router, tmp_path):
        self.path = tmp_path / "trace"
        # The leak checker does not work below a tracer (ptrace(2)).
        env = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        self.router = new_router("--threads", "1", wrapper=("strace", "-D", "-f", "-qq", "-o", str(self.path)), env=env)

    def calls(self):
        return len(CALLS.findall(self.path.read_text()))


@pytest.fixture
def trace(new_router, tmp_path):
    return Trace(new_router, tmp_path)


def calls_per_client(trace, meet):
    """Of clients that come one after the other; the first ones, for which things are made, not counted."""
    for _ in range(3):
        meet()
    before = trace.calls()
    for _ in range(CLIENTS):
        meet()
    return (trace.calls() - before) / CLIENTS


def test_a_relayed_client(trace):
    """Connect, one echo, close."""
    trace.router.echo("foo")

    def meet():
        client = trace.router.connect().send(b"foo\nx")
        assert client.receive(1) == b"x"
        client.end().expect_end()
        trace.router.wait_session(client, reason="done")

    assert calls_per_client(trace, meet) <= 23  # the line of the log is one of them


def test_a_client_handed_over(trace):
    """To a receiver that keeps its connection. The description is at rest, so it is remembered."""
    receiver = trace.router.receiver("foo", lasting=True)

    def meet():
        client = trace.router.open("foo")
        receiver.take().close()
        client.expect_end()

    wait_until(lambda: calls_per_client(trace, meet) <= 13, "a lasting receiver and a description that is remembered")


def test_a_client_handed_over_is_closed_at_once(trace):
    """While the router has it open too, the receiver's close() leaves it in the receiver's epoll, which goes on."""
    receiver = trace.router.receiver("foo", lasting=True)
    for _ in range(5):
        client = trace.router.open("foo")
        receiver.take().close()
        client.expect_end()
    following = re.findall(r"sendmsg\(.*\n\d+ +(\w+)\(", trace.path.read_text())
    assert following[1:] == ["close"] * 4, following  # the first one's connection is kept, and watched first


def test_an_exchange(trace):
    """One byte there and back, in a session that goes on: three calls each way."""
    trace.router.echo("foo")
    client = trace.router.open("foo")

    def meet():
        client.send(b"x")
        assert client.receive(1) == b"x"

    assert calls_per_client(trace, meet) <= 6.2
