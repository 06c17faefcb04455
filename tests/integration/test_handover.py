"""Handing over the client's own socket (the protocol, section 5)."""

import os
import socket
import threading

import pytest

from harness.services import (Backend, Receiver, bind_tcp, bind_unix, closed_port, is_blocking, receive_descriptors)
from harness.stream import Stream, noise, noise_sum, receive_sum, send_noise
from harness.wait import Task, wait_until


def take_by_hand(backend):
    """One hand-over looked at byte by byte: the client, after `*`, exactly one descriptor, and end of file."""
    peer = backend.accept()
    data, fds = receive_descriptors(peer.sock)
    assert data == b"*" and len(fds) == 1, (data, fds)
    assert is_blocking(fds[0]), "the descriptor must be in blocking mode, as accept() would give it"
    with socket.socket(fileno=os.dup(fds[0])) as client:
        assert not client.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE), "nor with urgent bytes among the others"
    peer.expect_end()
    return Stream(socket.socket(fileno=fds[0]))


def test_one_client(router):
    """One byte `*`, exactly one descriptor, then end of file; the socket is the client's own."""
    backend = router.backend(".receiver")
    router.describe("foo", ".receiver passfd\n")
    client = router.open("foo")
    served = router.keep(take_by_hand(backend))
    assert served.name == router.address
    peer_host, peer_port = served.sock.getpeername()
    assert f"{peer_host}:{peer_port}" == client.name
    served.send(b"greeting")
    assert client.receive(8) == b"greeting"
    client.send(b"hello").end()
    assert served.receive_all() == b"hello"
    served.close()
    client.expect_end()
    router.wait_session(client, reason="handed-over", mode="handover", kind="passfd", service="foo")


@pytest.mark.parametrize("text", ["{} passfd\n", "{} passfd", "{} \t passfd \r\n", "{}  passfd\n\n# comment\n"])
@pytest.mark.parametrize("path", ["receiver", "sub/receiver", "two words", "./a:b",
                                  "{root}/outside/absolute", "n" * 200])
def test_forms_of_the_description(router, text, path):
    """SOCKET is a path like that of any description: relative to the services directory, whole, of any length."""
    path = path.format(root=router.root)
    receiver = router.keep(Receiver(bind_unix(os.path.join(str(router.services), path))))
    router.describe("d/foo", text.format(path))
    client = router.open("d/foo").send(b"hello")
    served = receiver.take()
    assert served.receive(5) == b"hello"
    served.close()
    client.expect_end()


@pytest.mark.parametrize("payload", [b"x", b"\r\nhello", b"\n", b"foo\r\n", noise(60_000)],
                         ids=["byte", "crlf", "lf", "line", "bulk"])
@pytest.mark.parametrize("lasting", [False, True])
def test_unread_bytes_are_still_in_the_socket(router, payload, lasting):
    """Not one byte past the LF of the service line is consumed."""
    receiver = router.receiver("foo", lasting=lasting)
    for end in (b"\n", b"\r\n"):
        client = router.connect().send(b"foo" + end + payload).end()
        served = receiver.take()
        assert served.receive_all() == payload
        served.close()
        client.expect_end()


def test_bytes_behind_lists_are_still_in_the_socket(router):
    """Lists before the service line, all in one segment."""
    receiver = router.receiver("foo")
    client = router.connect().send(b"\n\r\nfoo\n\nrest").end()
    served = receiver.take()
    assert served.receive_all() == b"\nrest"
    for _ in range(2):
        assert client.receive_list() == b"foo\r\n\r\n"


def test_line_in_pieces(router):
    """The same when the line comes byte by byte."""
    receiver = router.receiver("foo")
    client = router.connect()
    for byte in b"foo\r\n\r\nrest":
        client.send(bytes([byte]))
        router.settle()
    client.end()
    assert receiver.take().receive_all() == b"\r\nrest"


def test_bulk_after_the_hand_over(router):
    """Client and server speak directly: any amount, and the router has no part in it."""
    receiver = router.receiver("foo")
    client = router.open("foo")
    served = receiver.take()
    sending = Task(send_noise, client, 8 << 20)
    assert receive_sum(served) == noise_sum(8 << 20)
    sending.join()
    router.wait_session(client, reason="handed-over")
    router.wait_fds_back()


def test_router_forgets_the_client(router):
    """Events of a socket that was handed over still come until it is taken out of epoll: nothing may spin."""
    receiver = router.receiver("foo", lasting=True)
    clients = [router.open("foo") for _ in range(8)]
    served = [receiver.take() for _ in clients]
    for client in clients:
        client.send(b"x" * 10_000)
    clients[0].end()
    clients[1].reset()
    for stream in served:
        if _peer_port(stream) == clients[2].sock.getsockname()[1]:
            stream.end()
    router.assert_quiet()


def test_clients_outlive_the_router(new_router):
    """The receiver owns the connection from then on."""
    router = new_router()
    receiver = router.receiver("foo")
    client = router.open("foo")
    served = receiver.take()
    router.wait_session(client, reason="handed-over")
    router.stop()
    client.send(b"still here").end()
    assert served.receive_all() == b"still here"


def test_open_answers_before_the_hand_over(router):
    """`+` CRLF comes from the router, then everything from the receiver."""
    receiver = router.receiver("foo")
    client = router.connect().send(b".kaiso/open foo\r\npayload").end()
    served = receiver.take()
    served.send(b"greeting")
    assert served.receive_all() == b"payload"
    served.close()
    assert client.receive_all() == b"+\r\ngreeting"


def test_nobody_receives(router):
    """No socket, or a dead one: the client is closed, reason unavailable."""
    router.backend("dead").close()
    router.describe("foo", "dead passfd\n")
    router.describe("bar", "absent passfd\n")
    for path in ("foo", "bar"):
        client = router.open(path)
        client.expect_closed()
        router.wait_session(client, reason="unavailable", service=path)
        assert router.open(f".kaiso/open {path}").receive_line().startswith(b"-unavailable ")


# ---- the knock

def test_knock(router):
    """Connected to SOCKET first, then to localhost:PORT, opened and closed without a byte, then the descriptor."""
    backend = router.backend(".receiver")
    door = router.keep(Backend(bind_tcp()))
    router.describe("foo", f".receiver passfd:{door.port}\n")
    client = router.open("foo").send(b"hello").end()
    knock = door.accept()
    knock.expect_end()
    served = router.keep(take_by_hand(backend))
    assert served.receive_all() == b"hello"
    router.wait_session(client, reason="handed-over", kind="passfd")


def test_knock_for_each_client(router):
    """Once each."""
    door = router.keep(Backend(bind_tcp()))
    receiver = router.receiver("foo", suffix=f"passfd:{door.port}")
    for _ in range(5):
        router.open("foo").send(b"hello").end()
        door.accept().expect_end()
        assert receiver.take().receive_all() == b"hello"
    door.assert_untouched()


def test_failing_knock_hands_nothing_over(router):
    """When the knock fails nothing is handed over: the receiver sees a connection that ends without a byte."""
    backend = router.backend(".receiver")
    port, holder = closed_port()
    with holder:
        router.describe("foo", f".receiver passfd:{port}\n")
        client = router.open("foo")
        peer = backend.accept()
        data, fds = receive_descriptors(peer.sock)
        assert data == b"" and not fds
        client.expect_closed()
        router.wait_session(client, reason="unavailable")


def test_unanswered_knock_hands_nothing_over(new_router):
    """Nor when nobody answers it within the connect timeout: the descriptor never goes before the knock is done."""
    router = new_router("--connect-timeout", "300ms")
    backend = router.backend(".receiver")
    door = router.keep(Backend(bind_tcp(backlog=1)))
    fillers = door.fill_backlog()
    router.describe("foo", f".receiver passfd:{door.port}\n")
    client = router.open("foo")
    peer = backend.accept()
    data, fds = receive_descriptors(peer.sock)
    assert data == b"" and not fds
    client.expect_closed()
    router.wait_session(client, reason="timeout")
    for filler in fillers:
        filler.close()


def test_no_knock_without_a_receiver(router):
    """SOCKET comes first: where nobody receives, nobody is knocked at."""
    door = router.keep(Backend(bind_tcp()))
    router.describe("foo", f"absent passfd:{door.port}\n")
    client = router.open("foo")
    client.expect_closed()
    router.wait_session(client, reason="unavailable")
    door.assert_untouched()


# ---- receivers that last

def test_lasting_receiver_keeps_its_connection(new_router):
    """Who greets with `+` gets the clients to come over the same connection."""
    router = new_router("--threads", "1")
    receiver = router.receiver("foo", lasting=True)
    for count in range(50):
        client = router.open("foo").send(b"hello").end()
        served = receiver.take()
        assert served.receive_all() == b"hello"
        served.send(b"answer %d" % count).close()
        assert client.receive_all() == b"answer %d" % count
        client.close()
    assert len(receiver.per_connection) <= 5, f"clients a connection: {receiver.per_connection}"
    assert sum(receiver.per_connection) == 50


def test_first_receivers_are_never_given_two(router):
    """Who does not greet is the first kaiso's: one client a connection, and then end of file."""
    receiver = router.receiver("foo", lasting=False)
    clients = [router.open("foo").line(b"%d" % count, b"") for count in range(40)]
    seen = {receiver.take().sock.getpeername()[1] for _ in clients}
    assert seen == {client.sock.getsockname()[1] for client in clients}
    wait_until(lambda: sum(receiver.per_connection) == 40, "the receivers")
    assert max(receiver.per_connection) == 1


@pytest.mark.parametrize("lasting", [False, True])
def test_two_hundred_clients_at_once(router, lasting):
    """Each reaches the receiver exactly once, with its bytes."""
    receiver = router.receiver("foo", lasting=lasting)
    clients = [router.connect().send(b"foo\r\nclient %d" % count).end() for count in range(200)]
    got = sorted(receiver.take().receive_all() for _ in clients)
    assert got == sorted(b"client %d" % count for count in range(200))


def test_full_queue_of_a_lasting_receiver(router):
    """A receiver that reads late: some 278 clients fit its queue, the others wait and are not lost."""
    receiver = router.receiver("foo", lasting=True)
    router.open("foo").send(b"first").end()
    assert receiver.take().receive_all() == b"first"
    receiver.close()
    receiver = router.receiver("foo", lasting=True, is_reading=False)
    clients = [router.connect().send(b"foo\r\nclient %03d" % count).end() for count in range(400)]
    router.settle()
    receiver.read_on()
    got = sorted(receiver.take().receive_all() for _ in clients)
    assert got == [b"client %03d" % count for count in range(400)]


def test_full_backlog_of_a_one_shot_receiver(router):
    """A burst on a receiver that accepts late."""
    receiver_socket = bind_unix(router.path(".receiver"), backlog=2)
    router.describe("foo", ".receiver passfd\n")
    clients = [router.connect().send(b"foo\r\nclient %02d" % count).end() for count in range(60)]
    router.settle()
    receiver = router.keep(Receiver(receiver_socket))
    got = sorted(receiver.take().receive_all() for _ in clients)
    assert got == [b"client %02d" % count for count in range(60)]


@pytest.mark.parametrize("lasting", [False, True])
def test_receiver_dies_and_comes_back(router, lasting):
    """The router notices and connects again for the next client."""
    for count in range(3):
        receiver = router.receiver("foo", lasting=lasting)
        for _ in range(3):
            router.open("foo").send(b"hello %d" % count).end()
            assert receiver.take().receive_all() == b"hello %d" % count
        receiver.close()
        client = router.open("foo")
        client.expect_closed()
        router.wait_session(client, reason="unavailable")


def test_receiver_closes_a_kept_connection(router):
    """A lasting receiver may end one connection and go on with others: no client is lost between them."""
    backend = router.backend(".receiver")
    router.describe("foo", ".receiver passfd\n")
    lock = threading.Lock()
    served = []

    def serve_one_and_close():
        peer = backend.accept()
        try:
            peer.sock.send(b"+", socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            pass  # the client is sent and the connection closed: that client is in the queue
        data, fds = receive_descriptors(peer.sock)
        peer.close()
        with lock:
            served.extend(router.keep(Stream(socket.socket(fileno=fd))) for fd in fds)
        return data

    for count in range(10):
        client = router.open("foo").send(b"x%d" % count).end()
        assert serve_one_and_close() == b"*"
        assert served.pop().receive_all() == b"x%d" % count
        router.wait_session(client, reason="handed-over")
    # The kept connection's end has reached the router before the next client does, or it has not:
    # either way the client is served or told that it is not, and the router goes on.
    router.echo("echo")
    router.open("echo").exchange(b"hello")


def test_receiver_that_says_something_else(router):
    """A receiver that greets with nonsense gets its one client."""
    backend = router.backend(".receiver")
    router.describe("foo", ".receiver passfd\n")
    for nonsense in (b"-", b"hello", b"\0" * 5000):
        client = router.open("foo").send(b"x").end()
        peer = backend.accept()
        try:
            peer.send(nonsense)
        except OSError:
            pass
        data, fds = receive_descriptors(peer.sock)
        assert data == b"*" and len(fds) == 1
        with Stream(socket.socket(fileno=fds[0])) as served:
            assert served.receive_all() == b"x"
        client.expect_end()


def test_description_turned_to_another_receiver(router):
    """What a path resolved to may be kept in mind, but each request is resolved when it comes."""
    first = router.receiver("foo", socket_name=".first", lasting=True)
    second = router.receiver("bar", socket_name=".second", lasting=True)
    for receiver, name in ((first, ".first"), (second, ".second"), (first, ".first")):
        router.describe("foo", f"{name} passfd\n")
        for _ in range(4):
            router.open("foo").send(name.encode()).end()
            assert receiver.take().receive_all() == name.encode()


def test_socket_replaced_by_another_receiver(router):
    """The same with a new receiver at the same path while the old one still lives."""
    old = router.receiver("foo", lasting=True)
    router.open("foo").send(b"old").end()
    assert old.take().receive_all() == b"old"
    new = router.receiver("foo", lasting=True)
    router.open("foo").send(b"new").end()
    assert new.take().receive_all() == b"new"


# ---- clients that leave

@pytest.mark.parametrize("lasting", [False, True])
def test_clients_that_abort(router, lasting):
    """Clients that reset before, while and after they are handed over leave nothing behind."""
    receiver_socket = bind_unix(router.path(".receiver"), backlog=4)
    router.describe("foo", ".receiver passfd\n")
    for _ in range(30):
        router.open("foo").reset()
    receiver = router.keep(Receiver(receiver_socket, lasting=lasting))
    for _ in range(30):
        router.open("foo").reset()
    last = router.connect().send(b"foo\r\nlast").end()
    port = last.sock.getsockname()[1]
    wait_until(lambda: any(_peer_port(stream) == port for stream in receiver.taken),
               "the last client to be handed over")
    receiver.close()
    router.wait_fds_back()
    router.assert_quiet()


def _peer_port(stream):
    try:
        return stream.sock.getpeername()[1]
    except OSError:
        return None


def test_client_that_leaves_while_its_receiver_is_dialled(router):
    """The first kaiso leaked its descriptors."""
    backend = router.backend(".receiver", backlog=1)
    fillers = backend.fill_backlog()
    router.describe("foo", ".receiver passfd\n")
    client = router.open("foo")
    router.settle()
    client.reset()
    router.wait_session(client, reason="client-reset")
    for filler in fillers:
        filler.close()
    router.wait_fds_back()


def test_clients_of_a_unix_listener(new_router):
    """Their own socket is a UNIX one, handed over all the same."""
    router = new_router(start=False)
    router.listen = [f"unix:{router.root}/listener"]
    router.start()
    receiver = router.receiver("foo", lasting=True)
    for _ in range(3):
        client = router.connect().send(b"foo\r\nhello").end()
        served = receiver.take()
        assert served.sock.family == socket.AF_UNIX
        assert served.receive_all() == b"hello"
        served.send(b"answer").close()
        assert client.receive_all() == b"answer"
