"""Many threads at once; run with the thread sanitizer too (marker: threads)."""

import os
import signal

import pytest

from harness.stream import noise, noise_sum, receive_sum, send_noise
from harness.wait import Task, wait_until

pytestmark = pytest.mark.threads


@pytest.fixture
def router(new_router):
    return new_router("--threads", "4", "--drain-timeout", "5s")


def test_has_its_threads(router):
    """--threads is how many loops there are; the lister comes on top."""
    assert 4 <= router.threads <= 7


def test_clients_from_everywhere(router):
    """Many clients at once on all threads, every outcome among them."""
    router.echo("echo")
    router.describe("bad", "a:b:c\n")
    receiver = router.receiver("pass", lasting=True)

    def talk(number):
        for round_number in range(25):
            with router.connect() as client:
                kind = (number + round_number) % 5
                if kind == 0:
                    client.line("echo").exchange(noise(40_000)).end().expect_end()
                elif kind == 1:
                    assert client.line("").receive_list() == b"bad\r\necho\r\npass\r\n\r\n"
                elif kind == 2:
                    client.line(".kaiso/open nothing")
                    assert client.receive_line().startswith(b"-not-found ")
                elif kind == 3:
                    client.line("pass").send(b"hello")
                else:
                    client.line("bad").expect_closed()

    tasks = [Task(talk, number) for number in range(10)]
    for task in tasks:
        task.join()
    for _ in range(50):
        receiver.take()


def test_bulk_on_all_threads(router):
    """Pools, buffers and counters of each thread at work together."""
    router.echo("echo")
    per_stream = 2 << 20
    clients = [router.open("echo") for _ in range(16)]
    readers = [Task(receive_sum, client) for client in clients]
    writers = [Task(send_noise, client, per_stream) for client in clients]
    for task in writers:
        task.join()
    assert {task.join() for task in readers} == {noise_sum(per_stream)}


def test_lists_on_all_threads(router):
    """One lister for all loops, with clients that leave while they wait."""
    names = [f"service-{count:04}" for count in range(500)]
    for name in names:
        os.symlink("echo", router.path(name))
    router.echo("echo")
    expected = b"echo\r\n" + b"".join(name.encode() + b"\r\n" for name in names) + b"\r\n"

    def ask(number):
        for count in range(20):
            client = router.connect().line("")
            if (number + count) % 3 == 0:
                client.reset()
            else:
                assert client.receive_list() == expected
                client.close()

    tasks = [Task(ask, number) for number in range(8)]
    for task in tasks:
        task.join()


def test_hand_overs_on_all_threads(router):
    """Each client reaches the receiver once, whichever threads they came in by."""
    receiver = router.receiver("foo", lasting=True)

    def send(number):
        for count in range(25):
            router.open("foo").line(b"%d-%d" % (number, count), b"").end()

    tasks = [Task(send, number) for number in range(8)]
    for task in tasks:
        task.join()
    got = sorted(receiver.take().receive_all() for _ in range(200))
    assert got == sorted(b"%d-%d" % (number, count) for number in range(8) for count in range(25))


def test_limits_over_all_threads(new_router):
    """A limit is of the router, not of each thread."""
    router = new_router("--threads", "4", "--max-sessions", "8")
    router.echo("echo")
    held = [router.open("echo").exchange(b"hello") for _ in range(8)]
    for _ in range(12):
        router.connect().expect_closed()
    for client in held:
        client.exchange(b"unharmed")


def test_loop_over_threads(router):
    """The sessions of a circle are on different threads."""
    router.describe("a", f"{router.address} b\n")
    router.describe("b", f"{router.address} a\n")
    for _ in range(10):
        with router.open("a") as client:
            client.expect_closed()
    router.wait_log(msg="session", reason="loop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_by_signal_in_full_swing(router, number):
    """With clients at work on all threads: those inside are let end, the others are refused, exit code 0."""
    router.echo("echo")
    receiver = router.receiver("pass", lasting=True)
    assert receiver is not None

    def work():
        rounds = 0
        while True:
            try:
                with router.connect() as client:
                    if rounds % 3 == 0:
                        client.line("").receive_list()
                    elif rounds % 3 == 1:
                        client.line("pass")
                    else:
                        client.line("echo").exchange(b"hello")
            except (OSError, AssertionError):
                return rounds
            rounds += 1

    tasks = [Task(work) for _ in range(6)]
    wait_until(lambda: len(router.log.find(msg="session")) > 50, "the work to be under way")
    router.signal(number)
    assert router.wait_exit() == 0
    for task in tasks:
        task.join()


def test_second_signal_in_full_swing(new_router):
    """At once, with sessions open on all threads."""
    router = new_router("--threads", "4", "--drain-timeout", "1h")
    router.echo("echo")
    clients = [router.open("echo").exchange(b"hello") for _ in range(20)]
    router.signal(signal.SIGTERM)
    router.signal(signal.SIGTERM)
    # Two signals that come as one are one: ask again until it ends.
    wait_until(lambda: router.process.poll() is not None or router.signal(signal.SIGTERM), "the end", interval=0.05)
    assert router.wait_exit() == 0
    for client in clients:
        client.expect_closed()
