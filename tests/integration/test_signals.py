"""Signals, standard streams, and the log's reader: how a router ends, and what must not end it."""

import os
import signal
import subprocess
import sys

import pytest

from harness.router import KAISO, clean_environment
from harness.services import connect_unix
from harness.stream import Stream, noise
from harness.wait import DEADLINE, wait_until


def is_refused(router):
    try:
        router.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it was in the queue when the listener closed
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nobody_is_connected(router, number):
    """SIGTERM and SIGINT: exit code 0."""
    router.echo("foo")
    router.open("foo").exchange(b"hello").close()
    router.wait_fds_back()
    router.signal(number)
    assert router.wait_exit() == 0
    assert is_refused(router)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drains(router, number):
    """Stop accepting, let sessions end, then exit with 0."""
    router.echo("foo")
    clients = [router.open("foo").exchange(b"before") for _ in range(3)]
    router.signal(number)
    wait_until(lambda: is_refused(router), "the listener to close")
    for client in clients:
        client.exchange(noise(100_000))
    for client in clients:
        client.end().expect_end()
    assert router.wait_exit() == 0
    for client in clients:
        router.wait_session(client, reason="done")


def test_drain_timeout(new_router):
    """Sessions that last longer than the drain time are closed, with reason shutdown; still exit code 0."""
    router = new_router("--drain-timeout", "300ms")
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    router.signal(signal.SIGTERM)
    client.expect_closed()
    assert router.wait_exit() == 0
    router.wait_session(client, reason="shutdown")


def test_drain_timeout_with_silent_clients(new_router):
    """Clients that have not asked for anything do not hold the router longer than that either."""
    router = new_router("--drain-timeout", "300ms", "--request-timeout", "0")
    silent = router.connect()
    router.settle()
    router.signal(signal.SIGTERM)
    silent.expect_closed()
    assert router.wait_exit() == 0


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT),
                                     (signal.SIGTERM, signal.SIGINT)])
def test_second_signal_ends_at_once(new_router, numbers):
    """A second one: at once, whoever is connected."""
    router = new_router("--drain-timeout", "1h")
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    router.signal(numbers[0])
    wait_until(lambda: is_refused(router), "the listener to close")
    client.exchange(b"still served")
    router.signal(numbers[1])
    client.expect_closed()
    assert router.wait_exit() == 0
    router.wait_session(client, reason="shutdown")


def test_drain_while_dialling_and_handing_over(new_router):
    """Sessions at every stage when the signal comes."""
    router = new_router("--drain-timeout", "500ms")
    backend = router.backend("full", backlog=1)
    fillers = backend.fill_backlog()
    router.describe("pass", "full passfd\n")
    router.echo("foo")
    clients = [router.open("full"), router.open("pass"), router.connect().send(b"fo"), router.open("foo")]
    router.settle()
    router.signal(signal.SIGTERM)
    for client in clients:
        client.expect_closed()
    assert router.wait_exit() == 0
    for filler in fillers:
        filler.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_harmless_signals(router, number):
    """SIGHUP is what a closed terminal or a habit sends: sessions and the router go on."""
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    for _ in range(3):
        router.signal(number)
        client.exchange(b"after")
        router.open("foo").exchange(b"new")


def test_stopped_and_continued(router):
    """Job control; clients that came meanwhile wait in the listener's queue."""
    router.echo("foo")
    client = router.open("foo").exchange(b"before")
    router.signal(signal.SIGSTOP)
    late = [router.connect().send(b"foo\r\nhello") for _ in range(300)]
    router.signal(signal.SIGCONT)
    for stream in late:
        assert stream.receive(5) == b"hello"
    client.exchange(b"after")


# ---- standard streams

def _start_detached(router, redirections):
    """The router without the usual standard streams: ready is seen by its UNIX listener alone."""
    listener = f"{router.root}/listener"
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", KAISO, "serve", "--services", router.services_argument,
         f"unix:{listener}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(),
    )

    def connection():
        assert process.poll() is None, f"the router ended with {process.returncode}"
        try:
            return connect_unix(listener)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    first = Stream(wait_until(connection, "the listener"))
    first.close()
    return process, lambda: router.keep(Stream(connect_unix(listener)))


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", "2>&-", "<&-", ">&-",
                                          "0</dev/null 1>/dev/full 2>/dev/full"])
def test_closed_standard_streams(new_router, redirections):
    """Closed standard streams are survived, and no log line ever lands in a client's connection."""
    router = new_router(start=False)
    router.echo("foo")
    process, connect = _start_detached(router, redirections)
    try:
        clients = [connect().line("foo") for _ in range(5)]
        for _ in range(20):
            connect().line("nothing").expect_closed()
        for client in clients:
            client.exchange(noise(100_000))
        assert connect().line("").receive_list() == b"foo\r\n\r\n"
        for client in clients:
            client.end().expect_end()
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def test_broken_log_pipe(new_router):
    """Nobody reads the log any more: lines are dropped, the router lives."""
    router = new_router(start=False)
    router.echo("foo")
    listener = f"{router.root}/listener"
    process = subprocess.Popen(
        [KAISO, "serve", "--services", router.services_argument, "--log-level", "debug", f"unix:{listener}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=clean_environment(),
    )
    try:
        assert any(b"ready" in line for line in process.stderr)  # perhaps behind a warning
        process.stderr.close()
        clients = [router.keep(Stream(connect_unix(listener))).line("foo") for _ in range(5)]
        for _ in range(20):
            router.keep(Stream(connect_unix(listener))).line("nothing").expect_closed()
        for client in clients:
            client.exchange(b"hello").end().expect_end()
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def test_stalled_log_reader(new_router):
    """A log reader that stalls never stalls the router: lines are dropped and counted."""
    router = new_router("--log-level", "debug")
    router.echo("foo")
    session = router.open("foo").exchange(b"before")
    router.log.pause()
    for count in range(1500):
        with router.open(f"{count}-" + "nothing" * 30) as client:
            client.expect_closed()
    session.exchange(b"after")
    router.open("foo").exchange(b"new")
    router.log.resume()

    def told():
        with router.open("foo") as client:
            client.exchange(b"x")
        return router.log.find(msg="log lines dropped")

    line = wait_until(told, "the count of dropped lines")[0]
    assert int(line["count"]) > 0


def test_ends_while_the_log_reader_stalls(new_router):
    """Nobody reads the log at the end either."""
    router = new_router("--log-level", "debug")
    router.log.pause()
    for count in range(1500):
        with router.open(f"{count}-" + "nothing" * 30) as client:
            client.expect_closed()
    router.signal(signal.SIGTERM)
    assert router.process.wait(DEADLINE) == 0


def test_log_pipe_keeps_its_mode(new_router):
    """The pipe that the parent shares with the router stays blocking for the parent."""
    reading_end, writing_end = os.pipe()
    router = new_router(start=False)
    listener = f"{router.root}/listener"
    process = subprocess.Popen(
        [KAISO, "serve", "--services", router.services_argument, f"unix:{listener}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writing_end, env=clean_environment(),
    )
    try:
        text = b""
        while b"ready" not in text:  # perhaps behind a warning
            text += os.read(reading_end, 4096)
        assert os.get_blocking(writing_end)
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading_end)
        os.close(writing_end)


def test_blocked_signals_are_not_inherited(new_router):
    """A parent that blocks SIGTERM does not make a router that nobody can end."""
    mask = "import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK,[15,2]); os.execv(sys.argv[1],sys.argv[1:])"
    router = new_router(wrapper=(sys.executable, "-c", mask))
    router.echo("foo")
    router.open("foo").exchange(b"hello").close()
