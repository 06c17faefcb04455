"""What the soak (tests/soak) judges by: that it sees bytes that are wrong. It is not run itself here: `make soak`."""

import pathlib
import socket
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "soak"))

import flow  # noqa: E402
from harness.stream import noise_piece  # noqa: E402
from harness.wait import Task  # noqa: E402

AT, COUNT = 999_000, 100_000  # over the end of the noise, where it begins again


def stream(at=AT, count=COUNT):
    outgoing = flow.Outgoing(at, count)
    pieces = bytearray()
    while outgoing.rest:
        piece = outgoing.piece(70_000)
        outgoing.done += len(piece)
        pieces += piece
    return pieces


def changed(data):
    data[50_000] ^= 1
    return data


WRONG = {
    "changed": changed,
    "lost": lambda data: data[:50_000] + data[50_001:],
    "doubled": lambda data: data[:50_000] + data[40_000:],
    "swapped": lambda data: data[:40_000] + data[50_000:60_000] + data[40_000:50_000] + data[60_000:],
    "another": lambda data: stream(AT + 1),
    "too much": lambda data: data + noise_piece(AT + COUNT, 1),
}


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("chunk", [1, 7777, COUNT * 2])
def test_wrong_bytes_are_seen(how, chunk):
    data = WRONG[how](stream())
    expected = flow.Expected(AT, COUNT)
    with pytest.raises(flow.WrongBytes):
        for begin in range(0, len(data), chunk):
            expected.feed(bytes(data[begin:begin + chunk]))


def test_right_bytes_are_right():
    """Both ways at once, more than the sockets hold."""
    count = 5_000_000
    ends = socket.socketpair()
    streams = [flow.Expected(at, count) for at in (5, 900_000)]
    tasks = [Task(flow.duplex, sock, flow.Outgoing(at, count), expected.feed, flow.Rhythm())
             for sock, at, expected in zip(ends, (900_000, 5), streams)]
    assert all(task.join() for task in tasks)
    assert all(expected.is_whole for expected in streams)
    for sock in ends:
        sock.close()


def test_a_reset_is_no_end():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    flow.reset(peer)
    with client, pytest.raises(flow.Cut) as cut:
        flow.duplex(client, flow.Outgoing(0, 0), flow.Expected(0, 0).feed, flow.Rhythm(), ends=False)
    assert cut.value.is_reset


def test_an_end_that_comes_early_is_seen():
    ends = socket.socketpair()
    ends[0].close()
    with ends[1], pytest.raises(flow.Cut) as cut:
        flow.receive_exactly(ends[1], 1, flow.Rhythm())
    assert not cut.value.is_reset
