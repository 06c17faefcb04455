"""Client, router and service on hosts of their own: cables that are pulled, hosts that vanish without a word.

The router's host is in the middle, with a cable to each of the others. A host that vanishes sends nothing any more,
not even an end: its cable is out, or nobody has its address any more.
"""

import os
import re
import signal
import subprocess
import threading
import time
import zlib

import pytest

from harness.exposer import Exposer
from harness.hosts import Host
from harness.router import KAISO, clean_environment
from harness.services import Service, echo
from harness.stream import Stream, fill, noise_sum, receive_sum, send_noise
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

CLIENT, SERVICE = "client", "service"
KEEPALIVE = 2  # seconds; the least there is
BULK = 96 << 20  # more than all buffers on the way hold


class Network:
    """Three hosts. Addresses: 10.37.N.2 has the host, 10.37.N.1 the router at the other end of its cable."""

    def __init__(self):
        self.router = Host()
        if subprocess.run([*self.router.words, "ip", "link", "add", "probe", "type", "veth"], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.router.close()
            pytest.skip("this kernel has no cables (veth)")
        self.hosts = {}
        self.addresses = {}
        for number, name in enumerate((CLIENT, SERVICE), 1):
            host = self.hosts[name] = Host(self.router)
            self.router.ip("link", "add", name, "type", "veth", "peer", "name", "cable", "netns", str(host.pid))
            self.router.ip("address", "add", f"10.37.{number}.1/24", "dev", name)
            self.router.ip("link", "set", name, "up")
            host.ip("address", "add", f"10.37.{number}.2/24", "dev", "cable")
            host.ip("link", "set", "cable", "up")
            self.addresses[name] = f"10.37.{number}.2"

    def unplug(self, name):
        self.hosts[name].ip("link", "set", "cable", "down")

    def plug(self, name):
        self.hosts[name].ip("link", "set", "cable", "up")

    def vanish(self, name, how):
        if how == "cable":
            self.unplug(name)
        else:
            self.hosts[name].ip("address", "flush", "dev", "cable")

    def connect(self, router, port=37812):
        """A client of the router, on the clients' host."""
        return router.keep(Stream(self.hosts[CLIENT].socket("connect", "10.37.1.1", port)))

    def service(self, router, name, handler, port=8000):
        """A service on the services' host."""
        listener = self.hosts[SERVICE].socket("listen", self.addresses[SERVICE], port)
        router.describe(name, f"{self.addresses[SERVICE]}:{port}\n")
        return router.keep(Service(listener, handler))

    def close(self):
        for host in (*self.hosts.values(), self.router):
            host.close()


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


@pytest.fixture
def new_host_router(network, new_router):
    """A router on the host in the middle."""

    def make(*options, **how):
        return new_router("--threads", "1", *options, listen=("10.37.1.1:37812",), wrapper=network.router.words, **how)

    return make


class Progress:
    """Reads a stream to its end in a thread: a part, then only when told to go on. Counts."""

    def __init__(self, stream, first):
        self.count = 0
        self.may_go_on = threading.Event()
        self._stream, self._first = stream, first
        self.task = Task(self._read)

    def _read(self):
        count, checksum = receive_sum(self._stream, self._first)
        self.count = count
        assert self.may_go_on.wait(DEADLINE)
        while True:
            chunk = self._stream.sock.recv(1 << 18)
            if not chunk:
                return self.count, checksum
            checksum = zlib.crc32(chunk, checksum)
            self.count += len(chunk)


def settled(progress):
    """How much has come, once nothing comes any more."""
    last = [-1, time.monotonic()]

    def is_still():
        if progress.count != last[0]:
            last[:] = [progress.count, time.monotonic()]
        return time.monotonic() - last[1] > 0.3

    wait_until(is_still, "the transfer to stand still", interval=0.02)
    return last[0]


@pytest.mark.parametrize("way", ["upload", "download"])
@pytest.mark.parametrize("cut", [CLIENT, SERVICE])
def test_cable_out_and_in_again(network, new_host_router, way, cut):
    """In the middle of a transfer: it stands, and then goes on where it was, with nothing lost."""
    router = new_host_router()
    peers = []
    is_over = threading.Event()

    def handler(stream):
        peers.append(stream)
        is_over.wait(3 * DEADLINE)

    network.service(router, "bulk", handler)
    client = network.connect(router).line("bulk")
    wait_until(lambda: peers, "the session")
    source, sink = (client, peers[0]) if way == "upload" else (peers[0], client)
    try:
        writing = Task(send_noise, source, BULK)
        reading = Progress(sink, BULK // 4)
        wait_until(lambda: reading.count == BULK // 4, "a quarter of the bytes")
        network.unplug(cut)
        reading.may_go_on.set()
        assert settled(reading) < BULK
        assert not router.log.find(msg="session")
        network.plug(cut)
        writing.join()
        assert reading.task.join() == noise_sum(BULK)
    finally:
        is_over.set()


def opened(network, router):
    """A session in which both have spoken: client, peer at the service, and the event that lets the latter go."""
    peers = []
    is_over = threading.Event()

    def handler(stream):
        peers.append(stream)
        is_over.wait(3 * DEADLINE)

    network.service(router, "foo", handler)
    client = network.connect(router).line("foo").send(b"hello")
    wait_until(lambda: peers, "the session")
    assert peers[0].receive(5) == b"hello"
    peers[0].send(b"world")
    assert client.receive(5) == b"world"
    return client, peers[0], is_over


VANISHINGS = [(who, load, how, f"{KEEPALIVE}s") for who in (CLIENT, SERVICE)
              for load, how in (("idle", "address"), ("a message", "cable"), ("bulk", "cable"))]


@pytest.mark.parametrize("who, load, how, keepalive", [*VANISHINGS, (CLIENT, "a message", "cable", "1ms")])
def test_host_vanishes(network, new_host_router, who, load, how, keepalive):
    """Its session ends at --keepalive, not before, and the other side is told by a reset."""
    router = new_host_router("--keepalive", keepalive)
    client, peer, is_over = opened(network, router)
    name = client.name
    staying = peer if who == CLIENT else client
    try:
        if load == "bulk":
            fill(staying, limit=32 << 20)
        network.vanish(who, how)
        start = time.monotonic()
        if load == "a message":
            staying.send(b"is anybody there?")
        router.wait_session(name, reason="client-reset" if who == CLIENT else "service-reset")
        # TCP's own keepalive, when nothing is under way, counts from what was heard last.
        least = 0 if load == "idle" else KEEPALIVE
        assert least <= time.monotonic() - start < (KEEPALIVE + 2) * (5 if IS_SANITIZED else 2)
        staying.expect_reset()
    finally:
        is_over.set()


def test_host_vanishes_behind_a_half_close(network, new_host_router):
    """The service has ended; its last bytes never reach the client."""
    router = new_host_router("--keepalive", f"{KEEPALIVE}s")
    client, peer, is_over = opened(network, router)
    network.vanish(CLIENT, "cable")
    peer.send(b"the last words").end()
    router.wait_session(client.name, reason="client-reset")
    is_over.set()


@pytest.mark.parametrize("who", [CLIENT, SERVICE])
def test_reader_that_stalls_is_no_host_that_vanished(network, new_host_router, who):
    """Who takes nothing for longer than --keepalive, but says so, keeps its session."""
    router = new_host_router("--keepalive", f"{KEEPALIVE}s")
    client, peer, is_over = opened(network, router)
    try:
        stalling, other = (client, peer) if who == CLIENT else (peer, client)
        sent = fill(other, limit=32 << 20)
        end = time.monotonic() + 2 * KEEPALIVE
        wait_until(lambda: router.log.find(msg="session") or time.monotonic() > end, "that time")
        assert not router.log.find(msg="session")
        assert receive_sum(stalling, sent) == noise_sum(sent)
        stalling.send(b"still here")
        assert other.receive(10) == b"still here"
    finally:
        is_over.set()


def seconds_to_next_question(network, name):
    """Until the router's kernel asks that host again whether it takes more (persist timer, ss(8)); None: it does not."""
    lines = subprocess.run([*network.router.words, "ss", "-tno", "dst", network.addresses[name]], check=True, text=True,
                           capture_output=True, timeout=DEADLINE).stdout
    # 2min, 12sec, 1.250ms (which is more than a second), 250ms
    match = re.search(r"timer:\(persist,(?:(\d+)min)?(?:(\d+)(?:sec|\.))?(?:(\d+)ms)?,", lines)
    return match and sum(float(word or 0) * unit for word, unit in zip(match.groups(), (60, 1, 0.001)))


@pytest.mark.skipif(IS_SANITIZED, reason="it takes long, and is about the kernel's timers")
def test_a_reader_that_stalls_may_miss_a_question(network, new_host_router):
    """Between two of them there is more time than --keepalive by then."""
    router = new_host_router("--keepalive", f"{KEEPALIVE}s")
    client, peer, is_over = opened(network, router)
    try:
        sent = fill(peer, limit=32 << 20)
        longest = [0]

        def is_about_to_ask():
            left = seconds_to_next_question(network, CLIENT) or 0
            longest[0] = max(longest[0], left)
            return longest[0] > 2.5 and 0 < left < 0.6

        wait_until(is_about_to_ask, "a question after a long time", interval=0.05)
        host = network.hosts[CLIENT]
        host.ip("address", "flush", "dev", "cable")
        time.sleep(1)
        host.ip("address", "add", f"{network.addresses[CLIENT]}/24", "dev", "cable")
        end = time.monotonic() + 2 * KEEPALIVE
        wait_until(lambda: router.log.find(msg="session") or time.monotonic() > end, "that time")
        assert not router.log.find(msg="session")
        assert receive_sum(client, sent) == noise_sum(sent)
    finally:
        is_over.set()


def test_short_outage_of_an_idle_session(network, new_host_router):
    """A cable that is out while nothing moves is not noticed."""
    router = new_host_router()
    network.service(router, "echo", echo)
    client = network.connect(router).line("echo").exchange(b"one")
    network.unplug(CLIENT)
    network.unplug(SERVICE)
    network.plug(CLIENT)
    network.plug(SERVICE)
    client.exchange(b"two")


def test_no_keepalive(network, new_host_router):
    """--keepalive 0: nobody looks after a host that has vanished."""
    router = new_host_router("--keepalive", "0")
    client, peer, is_over = opened(network, router)
    network.vanish(CLIENT, "cable")
    peer.send(b"is anybody there?")
    end = time.monotonic() + 2 * KEEPALIVE
    wait_until(lambda: router.log.find(msg="session") or time.monotonic() > end, "that time")
    assert not router.log.find(msg="session")
    network.plug(CLIENT)
    assert client.receive(17) == b"is anybody there?"
    is_over.set()


# ---- expose and connect, when the router's host goes and comes back

@pytest.mark.skipif(IS_SANITIZED, reason="it takes long, and is about the kernel's timers")
def test_expose_outlives_the_host_of_its_kaiso(network, new_host_router, new_router):
    """A client that waits is told within --keepalive; meanwhile clients are refused in time; then all is as before."""
    router = new_host_router()
    network.service(router, "echo", echo, port=8001)
    exposer = new_router(kind=Exposer, kaiso="10.37.1.1:37812",
                         command=["expose", "--threads", "1", "--keepalive", f"{KEEPALIVE}s", "--connect-timeout", "300ms",
                                  "10.37.1.1:37812", "echo", "127.0.0.1:9000"],
                         wrapper=network.hosts[CLIENT].words)

    def expose_client():
        return exposer.keep(Stream(network.hosts[CLIENT].socket("connect", "127.0.0.1", 9000)))

    idle = expose_client().exchange(b"hello")
    busy = expose_client().exchange(b"hello")
    network.unplug(CLIENT)
    busy.send(b"is anybody there?")
    idle.expect_reset()
    busy.expect_reset()
    refused = expose_client()
    refused.expect_closed()
    line = exposer.wait_session(refused)
    assert line["reason"] in ("timeout", "unavailable")
    network.plug(CLIENT)
    wait_until(lambda: try_exchange(expose_client()), "a client to be served")
    # The other end of the sessions that were cut: the router's own keepalive would find them.
    router.signal(signal.SIGTERM)
    router.signal(signal.SIGTERM)
    assert router.wait_exit() == 0


def try_exchange(client):
    try:
        client.exchange(b"hello")
    except (OSError, AssertionError):
        return False
    return True


def connect_process(network, *words):
    return subprocess.Popen([*network.hosts[CLIENT].words, KAISO, "connect", *words], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_router_restarts_while_connect_waits(network, new_host_router, number):
    """kaiso connect does not hang; the next one is served by the next router."""
    router = new_host_router("--drain-timeout", "200ms")
    network.service(router, "echo", echo, port=8002)
    with connect_process(network, "10.37.1.1:37812", "echo") as waiting:
        waiting.stdin.write(b"hello")
        waiting.stdin.flush()
        assert os.read(waiting.stdout.fileno(), 5) == b"hello"
        router.signal(number)
        router.process.wait(DEADLINE)
        if number == signal.SIGKILL:
            router.is_stopped = True
            # Its kernel says that the router has ended, as a service may; whoever still speaks learns that nobody listens.
            assert os.read(waiting.stdout.fileno(), 5) == b""
            waiting.stdin.write(b"is anybody there?")
            waiting.stdin.flush()
        assert waiting.wait(DEADLINE) in (0, 1)
    second = new_host_router(services=router.services)
    with connect_process(network, "10.37.1.1:37812", "echo") as next_one:
        output, errors = next_one.communicate(b"hello again", timeout=DEADLINE)
        assert (output, errors, next_one.returncode) == (b"hello again", b"", 0)
    assert second.log.find(msg="ready")
