"""Between client and service: every byte, every end, every reset (the protocol, "On the wire"; sections 2 and 3)."""

import fcntl
import itertools
import os
import random
import select
import socket
import threading
import zlib

import pytest

from harness.namespaces import not_almighty
from harness.process import borrow_sockets, list_fds
from harness.router import LAZY_PIPES_PER_THREAD
from harness.services import Backend, bind_tcp, echo
from harness.stream import Stream, fill, noise, noise_piece, noise_sum, receive_sum, send_noise
from harness.wait import DEADLINE, IS_SANITIZED, Task, wait_until

BULK = (16 if IS_SANITIZED else 64) << 20
ANSWER = 8 << 20

WAYS = [("auto", "auto"), ("splice", "splice"), ("copy", "copy"), ("splice", "copy"), ("copy", "splice")]


@pytest.fixture(params=WAYS, ids=lambda ways: f"up-{ways[0]}-down-{ways[1]}")
def router(request, new_router):
    """A router for each way of moving bytes in each direction."""
    up, down = request.param
    return new_router("--relay-up", up, "--relay-down", down)


@pytest.fixture(params=["unix", "tcp"])
def make_backend(request, router):
    """A service "foo" of each kind, whose connections the test accepts."""
    return router.backend if request.param == "unix" else router.backend_tcp


def test_bulk_both_ways_at_once(router, make_backend):
    """Each way at once with checksums, ended by half-closes."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    tasks = [Task(send_noise, client, BULK), Task(send_noise, peer, BULK),
             Task(receive_sum, client), Task(receive_sum, peer)]
    results = [task.join() for task in tasks]
    assert results[2:] == [noise_sum(BULK)] * 2
    router.wait_session(client, reason="done", mode="relay", sent=BULK, received=BULK)


def test_slow_reader_at_the_service(router, make_backend):
    """The client is held back, the router's memory stays flat, and nothing is lost."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    _expect_back_pressure(router, client, peer)


def test_slow_reader_at_the_client(router, make_backend):
    """The same the other way round."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    _expect_back_pressure(router, peer, client)


def _expect_back_pressure(router, sender, reader):
    router.settle()
    before = router.rss()
    sent = fill(sender)
    assert sent < 256 << 20, "nobody held the sender back"
    if not IS_SANITIZED:
        assert router.rss() - before < 4 << 20
    reader.send(b"the other direction is free")
    assert sender.receive(27) == b"the other direction is free"
    sender.end()
    assert receive_sum(reader) == noise_sum(sent)


def test_client_ends_first(router, make_backend):
    """When the client ends its direction the service sees end of file and can still answer, however much."""
    backend = make_backend("foo")
    client = router.open("foo").send(b"request").end()
    peer = backend.accept()
    assert peer.receive_all() == b"request"
    sending = Task(send_noise, peer, ANSWER)
    assert receive_sum(client) == noise_sum(ANSWER)
    sending.join()
    peer.close()
    router.wait_session(client, reason="done", sent=7, received=ANSWER)


def test_service_ends_first(router, make_backend):
    """And the other way round."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    peer.send(b"greeting").end()
    assert client.receive_all() == b"greeting"
    sending = Task(send_noise, client, ANSWER)
    assert receive_sum(peer) == noise_sum(ANSWER)
    sending.join()
    router.wait_session(client, reason="done", sent=ANSWER, received=8)


def test_end_behind_full_buffers(router, make_backend):
    """The end of one direction, come while all buffers are full, is passed on behind the last byte; the other
    direction, full as well, stalls no more than it must: both hung for ever in the first kaiso."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    up = fill(client)
    down = fill(peer)
    client.end()
    peer.end()
    reading = Task(receive_sum, peer)
    assert receive_sum(client) == noise_sum(down)
    assert reading.join() == noise_sum(up)
    router.wait_session(client, reason="done", sent=up, received=down)


def test_messages_of_all_sizes(router, make_backend):
    """Small messages and bulk in turn, so that the way of moving bytes changes back and forth."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    serving = Task(echo, peer)
    random_sizes = random.Random(1)
    sizes = [1, 2, 100, 1460, 4096, 16_384, 65_535, 65_536, 65_537, 131_072, 200_000, 262_144, 300_001]
    sizes += [random_sizes.choice((1, 1000, 20_000, 70_000, 150_000)) for _ in range(60)]
    for size in sizes:
        sending = Task(client.send, noise(size))
        assert client.receive(size) == noise(size)
        sending.join()
    client.end()
    serving.join()
    peer.close()
    client.expect_end()
    router.wait_session(client, reason="done", sent=sum(sizes), received=sum(sizes))


def test_reset_by_the_client(router, make_backend):
    """A reset on one side ends both and arrives as a reset on the other, where there is such a thing (TCP)."""
    backend = make_backend("foo")
    client = router.open("foo").send(b"hello")
    peer = backend.accept()
    assert peer.receive(5) == b"hello"
    client.reset()
    _expect_broken(peer)
    router.wait_session(client, reason="client-reset")


def test_reset_by_the_service(router, make_backend):
    """A UNIX service resets by closing with bytes unread, a TCP one at will: the client gets a reset."""
    backend = make_backend("foo")
    client = router.open("foo").send(b"x" * 1000)
    peer = backend.accept()
    assert peer.receive(500) == b"x" * 500
    peer.send(b"an answer")
    assert client.receive(9) == b"an answer"
    if peer.sock.family == socket.AF_UNIX:
        peer.close()
    else:
        peer.reset()
    client.expect_reset()
    router.wait_session(client, reason="service-reset")


def test_reset_behind_the_end(router, make_backend):
    """A reset after one direction has ended is still a reset."""
    backend = make_backend("foo")
    client = router.open("foo").send(b"request").end()
    peer = backend.accept()
    assert peer.receive_all() == b"request"
    client.reset()
    wait_until(lambda: _is_broken(peer), "the service to learn of the reset")
    router.wait_session(client, reason="client-reset")


def test_reset_by_the_service_behind_its_end(router):
    """A service that has ended its direction and then resets: the client, which had seen the end, gets the reset."""
    backend = router.backend_tcp("foo")
    client = router.open("foo")
    peer = backend.accept()
    peer.send(b"greeting").end()
    assert client.receive_all() == b"greeting"
    peer.reset()
    poll = select.poll()
    poll.register(client.sock, 0)
    events = poll.poll(DEADLINE * 1000)
    assert events and events[0][1] & select.POLLERR, f"no reset came: {events}"
    router.wait_session(client, reason="service-reset")


def test_service_that_reads_no_more_and_answers(router):
    """Whatever the client still sends goes nowhere, but the answer is whole and so is its end. (TCP's shutdown(2)
    refuses nothing of the peer's.)"""
    backend = router.backend("foo")
    client = router.open("foo").send(b"request")
    peer = backend.accept()
    assert peer.receive(7) == b"request"
    peer.sock.shutdown(socket.SHUT_RD)
    client.send(b"more")
    router.settle()
    peer.send(b"answer").close()
    assert client.receive_all() == b"answer"


def test_reset_by_the_service_during_an_upload(router):
    """A part of an answer and a reset, while the client sends: the client must not take the part for the whole."""
    backend = router.backend_tcp("foo")
    for _ in range(20):
        client = router.open("foo")
        peer = backend.accept()
        sending = Task(_send_some, client, 1 << 40, (1 << 18,))
        receive_sum(peer, 1 << 20)
        peer.send(b"the beginning of an answer")
        peer.reset()
        sending.join()
        received, _, is_clean = _receive_to_the_end(client)
        assert not is_clean or client.was_reset, f"a clean end after {received} bytes"
        router.wait_session(client, reason="service-reset")


def test_reset_with_bytes_under_way(router, make_backend):
    """Full buffers both ways, then a reset: both sides and the router are done with it at once."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    fill(client, 4 << 20)
    fill(peer, 4 << 20)
    client.reset()
    _expect_broken(peer)
    router.wait_session(client, reason="client-reset")
    router.wait_fds_back()


def _is_broken(stream):
    """Whether sending on it fails by now."""
    try:
        stream.sock.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def _expect_broken(stream):
    """TCP: a reset. UNIX: the end, clean or not (the kernel knows a reset only where bytes were left unread)."""
    if stream.sock.family == socket.AF_UNIX:
        try:
            receive_sum(stream)
        except ConnectionResetError:
            pass
    else:
        stream.expect_reset()


def test_service_dies_in_mid_transfer(router, make_backend):
    """The uploading client learns of it and does not hang."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    sending = Task(send_noise, client, 1 << 40)
    receive_sum(peer, 3 << 20)
    peer.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sending.join()
    router.wait_session(client, reason="service-reset")


def test_client_dies_in_mid_transfer(router, make_backend):
    """And the answering service."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    sending = Task(send_noise, peer, 1 << 40)
    receive_sum(client, 3 << 20)
    client.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sending.join()
    router.wait_session(client, reason="client-reset")


def test_aborted_uploads(router, make_backend):
    """64 clients abort uploads: the first kaiso spun at 95 % CPU for ever after, descriptors leaked."""
    backend = make_backend("foo")
    clients, peers = [], []
    for _ in range(64):
        clients.append(router.open("foo"))
        peers.append(backend.accept())
    for client in clients:
        client.sock.setblocking(False)
        try:
            for _ in range(8):
                client.sock.send(noise(1 << 18))
        except BlockingIOError:
            pass
    for count, client in enumerate(clients):
        if count % 2:
            client.reset()
        else:
            client.close()
    for count, peer in enumerate(peers):
        if count % 3 == 0:
            _expect_broken_or_end(peer)
        peer.close()
    router.wait_fds_back()
    router.assert_quiet()


def _expect_broken_or_end(stream):
    try:
        receive_sum(stream)
    except ConnectionResetError:
        pass


def test_idle_sessions_hold_two_descriptors(router, make_backend):
    """Pipes are given back when a stream goes quiet."""
    backend = make_backend("foo")
    serving, clients = [], []
    for _ in range(40):
        clients.append(router.open("foo"))
        serving.append(Task(echo, backend.accept()))
    for client in clients:
        sending = Task(client.send, noise(300_000))
        assert client.receive(300_000) == noise(300_000)
        sending.join()
    base = router.fds_when_ready

    def is_lean():
        now = router.fds()
        kept_pipes = LAZY_PIPES_PER_THREAD * router.threads
        return now["socket"] <= base["socket"] + 80 and now["pipe"] <= base["pipe"] + kept_pipes

    wait_until(is_lean, lambda: f"idle sessions to hold two descriptors each: {router.fds()} from {base}")
    router.assert_quiet()
    for client in clients:
        client.exchange(b"and on").close()
    for task in serving:
        task.join()


# ---- not by way of moving bytes

def test_burst_on_a_full_backlog(new_router):
    """The first kaiso closed 28 of 30: a UNIX connect says EAGAIN when the backlog is full, and that means wait."""
    router = new_router()
    backend = router.backend("foo", backlog=2)
    clients = [router.connect().send(b"foo\r\nclient %02d" % count).end() for count in range(60)]
    router.settle()
    got = []
    for _ in clients:
        peer = backend.accept()
        got.append(peer.receive_all())
        peer.send(b"answer to " + got[-1]).close()
    assert sorted(got) == [b"client %02d" % count for count in range(60)]
    for count, client in enumerate(clients):
        assert client.receive_all() == b"answer to client %02d" % count


def test_client_that_leaves_while_its_service_is_dialled(new_router):
    """Descriptors leaked in the first kaiso."""
    router = new_router()
    backend = router.backend("foo", backlog=1)
    fillers = backend.fill_backlog()
    clients = [router.open("foo") for _ in range(20)]
    router.settle()
    for client in clients:
        client.reset()
    router.wait_session(clients[0], reason="client-reset")
    router.wait_fds_back()
    router.assert_quiet()
    for filler in fillers:
        filler.close()


def test_client_that_ends_while_its_service_is_dialled(new_router):
    """A half-close then is no leaving: the service gets the request, its end, and can answer."""
    router = new_router()
    backend = router.backend("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.connect().send(b"foo\r\nrequest").end()
    router.settle()
    for _ in fillers:
        backend.accept().close()
    peer = backend.accept()
    assert peer.receive_all() == b"request"
    peer.send(b"answer").close()
    assert client.receive_all() == b"answer"
    for filler in fillers:
        filler.close()


def test_thousand_sessions_at_once(new_router):
    """All open at the same time, each with its own bytes; afterwards nothing is left."""
    router = new_router()
    router.echo("foo")
    clients = [router.connect().send(b"foo\r\n") for _ in range(1000)]
    for count, client in enumerate(clients):
        client.send(b"client %04d" % count)
    for count, client in enumerate(clients):
        assert client.receive(11) == b"client %04d" % count
    assert router.fds()["socket"] >= router.fds_when_ready["socket"] + 2000
    for client in clients:
        client.end()
    for client in clients:
        client.expect_end()
        client.close()
    router.wait_fds_back()
    router.assert_quiet()


def test_many_bulk_streams(new_router):
    """More bulk streams than a pool has pipes, all served fairly enough to end."""
    router = new_router()
    per_stream = 1 << 20
    router.service("foo", echo)
    clients = [router.open("foo") for _ in range(80)]
    readers = [Task(receive_sum, client) for client in clients]
    writers = [Task(send_noise, client, per_stream) for client in clients]
    for task in writers:
        task.join()
    for task in readers:
        assert task.join() == noise_sum(per_stream)


def test_one_stream_does_not_starve_others(new_router):
    """A stream that never pauses and small exchanges on the same thread."""
    router = new_router("--threads", "1")
    router.echo("echo")
    hose = router.service("hose", lambda stream: send_noise(stream, 1 << 40))
    thirsty = router.open("hose")
    is_over = threading.Event()

    def drink():
        while not is_over.is_set():
            receive_sum(thirsty, 1 << 20)

    drinking = Task(drink)
    player = router.open("echo")
    for _ in range(200):
        player.exchange(b"ping")
    is_over.set()
    drinking.join()
    thirsty.close()
    assert hose.accepted == 1


def test_no_nagle_and_keepalive_on_both_sides(new_router):
    """Nagle cost 40 ms for every exchange; keepalive is on for both sides."""
    router = new_router()
    router.service_tcp("foo", echo)
    router.open("foo").exchange(b"hello")
    connected = 0
    for sock in borrow_sockets(router.pid):
        with sock:
            is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM or is_listening:
                continue
            connected += 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    assert connected == 2


def test_service_that_closes_at_once(new_router):
    """A service that accepts and closes is a clean end without bytes."""
    router = new_router()
    router.service("foo", lambda stream: None)
    for _ in range(30):
        client = router.open("foo")
        client.expect_end()
        client.close()


def test_answer_of_a_service_that_does_not_read(new_router):
    """An answer sent and closed before the request was read: the answer comes whole, whatever follows it."""
    router = new_router()
    backend = router.backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    peer.send(noise(100_000)).end()
    assert client.receive(100_000) == noise(100_000)
    client.send(b"late request")
    client.end()
    assert peer.receive_all() == b"late request"
    peer.close()
    router.wait_session(client, reason="done")


def test_unix_client_with_a_tcp_service(new_router):
    """Both ends of every family."""
    router = new_router(start=False)
    router.listen = [f"unix:{router.root}/listener", "127.0.0.1:0"]
    router.start()
    unix_address = next(address for address in router.addresses if address.startswith("unix:"))
    tcp_address = next(address for address in router.addresses if not address.startswith("unix:"))
    for name, backend in (("unix", router.backend("unix")), ("tcp", router.backend_tcp("tcp"))):
        for address in (unix_address, tcp_address):
            client = router.open(name, address=address)
            peer = backend.accept()
            tasks = [Task(send_noise, client, 2 << 20), Task(send_noise, peer, 2 << 20),
                     Task(receive_sum, client), Task(receive_sum, peer)]
            assert [task.join() for task in tasks][2:] == [noise_sum(2 << 20)] * 2


@pytest.mark.ipv6
def test_backend_on_ipv6(new_router):
    """A client over IPv6 to a service over IPv6."""
    router = new_router(listen=("[::1]:0",))
    backend = router.keep(Backend(bind_tcp("::1")))
    router.describe("foo", backend.address)
    client = router.open("foo").send(b"hello").end()
    peer = backend.accept()
    assert peer.receive_all() == b"hello"
    assert isinstance(peer, Stream)
    peer.send(b"answer").close()
    assert client.receive_all() == b"answer"
    router.wait_session(client, reason="done")


@pytest.mark.parametrize("way", ["auto", "splice", "copy"])
def test_urgent_byte_stalls_nothing(new_router, way):
    """A read stops at TCP's urgent mark, short but not for want of bytes: what stands behind it must come too."""
    router = new_router("--relay-up", way)
    backend = router.backend("foo", backlog=1)
    fillers = backend.fill_backlog()
    client = router.open("foo").send(b"before")
    client.sock.send(b"!", socket.MSG_OOB)
    client.send(b"behind")
    router.settle()
    for _ in fillers:
        backend.accept().close()
    peer = backend.accept()
    assert peer.receive(13) == b"before!behind"
    for filler in fillers:
        filler.close()


@pytest.mark.parametrize("size", [100_000, 400_000, 800_000, 1_500_000])
@pytest.mark.parametrize("way", ["auto", "splice", "copy"])
def test_urgent_byte_behind_a_full_sink(new_router, way, size):
    """A source is not watched while its sink is full. An urgent byte that comes meanwhile keeps its place."""
    router = new_router("--relay-up", way)
    backend = router.backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    client.send(noise(size))
    router.settle()
    client.send(b"before")
    client.sock.send(b"!", socket.MSG_OOB)
    client.send(b"behind")
    router.settle()
    assert peer.receive(size) == noise(size)
    assert peer.receive(13) == b"before!behind"


def send_with_urgent(stream):
    stream.send(b"before")
    stream.sock.send(b"!", socket.MSG_OOB)
    return stream.send(b"behind")


def send_with_urgent_and_end(stream):
    send_with_urgent(stream).end()


@pytest.mark.parametrize("size", [100_000, 400_000, 800_000, 1_500_000])
def test_urgent_byte_before_the_end_of_an_upload(router, make_backend, size):
    """Once the end has come splice(2) says 0 at a mark too: only recv(2) tells the two apart."""
    backend = make_backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    client.send(noise(size))
    router.settle()
    send_with_urgent_and_end(client)
    router.settle()
    assert peer.receive_all() == noise(size) + b"before!behind"
    client.close()
    peer.close()


def test_urgent_byte_before_the_end_of_a_download(router):
    backend = router.backend_tcp("foo")
    client = router.open("foo", receive_buffer=65536)
    peer = backend.accept()
    size = fill(peer)
    received = 0
    while not select.select([], [peer.sock], [], 0)[1]:
        received += len(client.sock.recv(1 << 16))
    send_with_urgent_and_end(peer)
    router.settle()
    assert (client.receive_all() == noise(size)[received:] + b"before!behind"), size
    client.close()
    peer.close()


def test_urgent_byte_of_a_unix_service(router):
    """Linux 5.15: UNIX sockets have urgent bytes too (MSG_OOB)."""
    backend = router.backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    for _ in range(3):
        send_with_urgent(peer)
        router.settle()
    peer.end()
    assert client.receive_all() == b"before!behind" * 3


def test_urgent_byte_of_a_unix_client(new_router, tmp_path):
    router = new_router(listen=("127.0.0.1:0", f"unix:{tmp_path}/listener"))
    backend = router.backend("foo")
    client = router.open("foo", address=f"unix:{tmp_path}/listener")
    peer = backend.accept()
    send_with_urgent_and_end(client)
    assert peer.receive_all() == b"before!behind"


def test_urgent_byte_before_the_request(router, make_backend):
    """It is a byte of the line as any other. The line is looked at before it is taken: both must count alike."""
    backend = make_backend("Ufoo")
    client = router.connect()
    client.sock.send(b"U", socket.MSG_OOB)
    client.send(b"foo\nhello").end()
    assert backend.accept().receive_all() == b"hello"


def test_bulk_without_large_pipes(new_router):
    """An unprivileged user gets pipes up to a share of memory, then tiny ones or none: bytes move all the same."""
    with open("/proc/sys/fs/pipe-user-pages-soft", encoding="ascii") as soft:
        share = int(soft.read()) * 4096
    held = []
    try:
        for _ in range(share // (1 << 20) + 4):
            held.extend(os.pipe())
            try:
                fcntl.fcntl(held[-1], fcntl.F_SETPIPE_SZ, 1 << 20)
            except PermissionError:
                pass
        router = new_router("--relay-up", "splice", "--relay-down", "splice", wrapper=not_almighty())
        backend = router.backend("foo")
        for _ in range(4):
            client = router.open("foo")
            peer = backend.accept()
            tasks = [Task(send_noise, client, 4 << 20), Task(send_noise, peer, 4 << 20),
                     Task(receive_sum, client), Task(receive_sum, peer)]
            assert [task.join() for task in tasks][2:] == [noise_sum(4 << 20)] * 2
    finally:
        for fd in held:
            os.close(fd)


def test_pipes_leave_some_for_others(new_router):
    """A user's pipes may hold so much altogether: a router with stalled bulk takes half, and copies beyond it."""
    with open("/proc/sys/fs/pipe-user-pages-soft", encoding="ascii") as soft:
        share = int(soft.read()) * os.sysconf("SC_PAGESIZE")
    router = new_router("--threads", "2", "--relay-up", "splice")
    backend = router.backend("foo")
    clients = [router.open("foo") for _ in range(share // (512 << 10))]
    for client in clients:
        backend.accept()
        client.sock.setblocking(False)
    for _ in range(8):
        for client in clients:
            try:
                client.sock.send(noise(1 << 20))
            except BlockingIOError:
                pass
        router.settle()
    pipes = {target: fd for fd, target in list_fds(router.pid).items() if target.startswith("pipe:")}
    held = 0
    for end in pipes.values():
        fd = os.open(f"/proc/{router.pid}/fd/{end}", os.O_RDONLY | os.O_NONBLOCK)
        held += fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        os.close(fd)
    assert share // 4 <= held <= share // 2 + 65536, f"{len(pipes)} pipes hold {held} bytes"  # the log is one more


# ---- everything at once

def _send_some(stream, count, chunk_sizes):
    """Sends noise in pieces of these sizes in turn; how much went out before the other side was gone. The kernel tells a
    reset only once: when it is the sender who learns of it, stream.was_reset says so to the receiver."""
    sent = 0
    try:
        for size in itertools.cycle(chunk_sizes):
            if sent >= count:
                break
            sent += stream.sock.send(noise_piece(sent, min(size, count - sent)))
    except (ConnectionResetError, BrokenPipeError):
        stream.was_reset = True
    return sent


def _receive_to_the_end(stream):
    """(count, checksum, whether the end was clean)."""
    received, checksum = 0, 0
    while True:
        try:
            chunk = stream.sock.recv(1 << 17)
        except (ConnectionResetError, BrokenPipeError):
            return received, checksum, False
        if not chunk:
            return received, checksum, True
        received += len(chunk)
        checksum = zlib.crc32(chunk, checksum)


def _run_course(client, peer, dice):
    sizes = [dice.choice((0, 1, 5000, 200_000, 1_500_000)) for _ in range(2)]
    chunks = [dice.choice(((1 << 18,), (1000, 70_000), (16_384,), (65_536, 1, 131_072))) for _ in range(2)]
    fate = dice.choice(("ends", "ends", "ends", "client resets", "service resets"))
    streams = {"client": client, "service": peer}
    others = {"client": "service", "service": "client"}
    if fate == "ends":
        sending = [Task(lambda s=stream, n=size, c=chunk: (_send_some(s, n, c), s.end()))
                   for stream, size, chunk in zip((client, peer), sizes, chunks)]
        receiving = [Task(_receive_to_the_end, stream) for stream in (peer, client)]
        for task in sending:
            task.join()
        for task, size in zip(receiving, sizes):
            assert task.join() == (*noise_sum(size), True)
        return
    breaker = fate.split()[0]
    remaining = others[breaker]
    sending = Task(_send_some, streams[remaining], sizes[1], chunks[1])
    receiving = Task(_receive_to_the_end, streams[remaining])
    sent = _send_some(streams[breaker], sizes[0], chunks[0])
    streams[breaker].reset()
    sending.join()
    received, checksum, is_clean = receiving.join()
    is_clean = is_clean and not getattr(streams[remaining], "was_reset", False)
    assert received <= sent and (received, checksum) == noise_sum(received)
    if client.sock.family == peer.sock.family:
        assert not is_clean, f"{breaker} reset, and the other side saw a clean end after {received} of {sent} bytes"
    if is_clean and breaker == "service":
        assert received == sent, f"a clean end after {received} of {sent} bytes"


@pytest.mark.parametrize("seed", range(2))
def test_everything_at_once(router, make_backend, seed):
    """Sessions of all courses side by side: amounts, pieces, ends and resets by the dice."""
    backend = make_backend("foo")
    pairs = []
    for number in range(24):
        client = router.open("foo")
        pairs.append((client, backend.accept(), random.Random(seed * 1000 + number)))
    courses = [Task(_run_course, *pair) for pair in pairs]
    for course in courses:
        course.join()
    for client, peer, _ in pairs:
        client.close()
        peer.close()
    router.wait_fds_back()
