"""Request lines: where one ends, what it asks for, whose the bytes behind it are (the protocol, "On the wire")."""

import os
import random

import pytest

from harness.stream import noise


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_with_lf_or_crlf(router, end):
    """A line ends with LF; one CR right before the LF is dropped."""
    router.echo("foo")
    client = router.connect().line("foo", end).exchange(b"hello")
    client.end().expect_end()
    router.wait_session(client, reason="done", service="foo")


def test_line_ends_may_be_mixed(router):
    """CRLF and a bare LF both work, one after the other on one connection."""
    router.echo("foo")
    client = router.connect()
    for end in (b"\n", b"\r\n", b"\n"):
        assert client.line("", end).receive_list() == b"foo\r\n\r\n"
    client.line("foo", b"\n").exchange(b"x")


def test_only_one_cr_is_dropped(router):
    """Of two CRs before the LF the first belongs to the name, and a name with a control byte is refused."""
    backend = router.backend("foo")
    client = router.connect().line("foo\r")
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    backend.assert_untouched()


def test_cr_without_lf_ends_nothing(router):
    """A CR inside a line is a byte like others (and refused); the first kaiso crashed on it."""
    router.echo("foo")
    for line in (b"f\roo\n", b"\rfoo\n", b"foo\r\r\n", b"\r\r\n"):
        client = router.connect().send(line)
        client.expect_closed()
        router.wait_session(client, reason="not-found")
    router.open("foo").exchange(b"still here")


def test_cr_and_lf_in_different_segments(router):
    """The CR comes, the router sees it, then the LF comes."""
    router.echo("foo")
    client = router.connect().send(b"foo\r")
    router.settle()
    client.send(b"\n").exchange(b"hello")
    client = router.connect().send(b"\r")
    router.settle()
    assert client.send(b"\n").receive_list() == b"foo\r\n\r\n"


def _path_of_length(length):
    """A path of that many bytes in components of at most 200."""
    components = []
    while length > 201:
        components.append("c" * 199)
        length -= 200
    components.append("e" * length)
    return "/".join(components)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_of_4096_bytes_is_whole(router, end):
    """A line holds at most 4096 bytes with its terminator: the longest is served."""
    path = _path_of_length(4096 - len(end))
    router.echo(path)
    client = router.connect()
    client.line(path, end).exchange(b"far below")
    client.end().expect_end()
    router.wait_session(client, reason="done")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_of_4097_bytes_is_too_long(router, end):
    """One byte more ends the connection, with reason line-too-long."""
    client = router.connect().line("x" * (4097 - len(end)), end)
    client.expect_closed()
    router.wait_session(client, reason="line-too-long")


def test_long_line_is_refused_before_it_ends(router):
    """4096 bytes without a LF cannot become a line any more: nobody waits for the rest."""
    client = router.connect().send(b"x" * 4096)
    client.expect_closed()
    router.wait_session(client, reason="line-too-long")


def test_long_line_behind_a_list(router):
    """The limit is of a line, not of all lines together: lists of more than 4096 bytes of requests are fine."""
    client = router.connect()
    client.send(b"\n" * 5000)
    for _ in range(5000):
        assert client.receive(2) == b"\r\n"
    client.send(b"y" * 5000)
    client.expect_closed()
    router.wait_session(client, reason="line-too-long")


@pytest.mark.parametrize("line", [b"foo", b"foo\r", b"f"])
def test_unfinished_line_asks_for_nothing(router, line):
    """A line that the client leaves unfinished (end of file before its LF) asks for nothing."""
    backend = router.backend("foo")
    client = router.connect().send(line).end()
    client.expect_closed()
    router.wait_session(client, reason="client-closed")
    backend.assert_untouched()


def test_client_that_says_nothing(router):
    """A client that leaves without a byte is no event worth more than a line in the log."""
    client = router.connect().end()
    client.expect_end()
    router.wait_session(client, reason="client-closed")


def test_unfinished_line_behind_a_list(router):
    """The list is still whole, the unfinished line still nothing."""
    backend = router.backend("foo")
    client = router.connect().send(b"\r\nfoo").end()
    assert client.receive_list() == b"foo\r\n\r\n"
    client.expect_closed()
    router.wait_session(client)
    backend.assert_untouched()


def test_any_number_of_lists_before_a_service(router):
    """The connection stays open for further lines; all of it may come in one segment."""
    router.echo("foo")
    client = router.connect().send(b"\r\n\n\r\nfoo\r\npayload")
    for _ in range(3):
        assert client.receive_list() == b"foo\r\n\r\n"
    assert client.receive(7) == b"payload"
    client.end().expect_end()
    router.wait_session(client, reason="done", sent=7, received=7)


def test_lists_and_services_in_turn(router):
    """Lists one at a time, each awaited, then a service."""
    router.echo("foo")
    client = router.connect()
    for _ in range(20):
        assert client.line("").receive_list() == b"foo\r\n\r\n"
    client.line("foo").exchange(b"hello")


def test_bytes_behind_the_line_reach_the_service(router):
    """Bytes in the same segment as the line and later ones reach the service, whole and in order."""
    backend = router.backend("foo")
    data = noise(300_000)
    client = router.connect().send(b"foo\r\n" + data[:1000])
    peer = backend.accept()
    client.send(data[1000:])
    client.end()
    assert peer.receive_all() == data


def test_end_of_file_right_behind_the_line(router):
    """The service sees it and can still answer."""
    backend = router.backend("foo")
    client = router.connect().send(b"foo\r\n").end()
    peer = backend.accept()
    peer.expect_end()
    peer.send(b"an answer").close()
    assert client.receive_all() == b"an answer"
    router.wait_session(client, reason="done", sent=0, received=9)


@pytest.mark.parametrize("payload", [b"\r\nhello", b"\nhello", b"\r\n\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_behind_the_line_belong_to_the_service(router, payload, end):
    """Exactly the line is consumed: a payload that begins with CRLF behind a line ended by LF is the service's."""
    backend = router.backend("foo")
    router.connect().send(b"foo" + end + payload).end()
    assert backend.accept().receive_all() == payload


def test_second_line_belongs_to_the_service(router):
    """From the first byte after the line the connection belongs to the service: no second request."""
    backend = router.backend("foo")
    other = router.backend("bar")
    client = router.connect().send(b"foo\nbar\n\n.kaiso/version\n").end()
    peer = backend.accept()
    assert peer.receive_all() == b"bar\n\n.kaiso/version\n"
    peer.close()
    router.wait_session(client, reason="done")
    other.assert_untouched()


@pytest.mark.parametrize("threads", ["1", None])
def test_dribbled_byte_by_byte(new_router, threads):
    """Every byte in a segment of its own, line and payload."""
    router = new_router(*(["--threads", threads] if threads else []))
    backend = router.backend("a b")
    client = router.connect()
    for byte in b"\r\na b\r\n\r\npayload":
        client.send(bytes([byte]))
        if threads:
            router.settle()
    assert client.receive_list() == b"a b\r\n\r\n"
    client.end()
    assert backend.accept().receive_all() == b"\r\npayload"


@pytest.mark.parametrize("line", [b"foo\0junk", b"foo\0", b"\0foo", b"\0"])
def test_nul_does_not_end_a_name(router, line):
    """Names are bytes: foo NUL junk reached foo in the first kaiso."""
    backend = router.backend("foo")
    client = router.connect().line(line)
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    backend.assert_untouched()


@pytest.mark.parametrize("name", ["foo ", " foo", "FOO", "Foo", "foo\u00a0", "fo"])
def test_names_are_never_trimmed_and_case_is_kept(router, name):
    """`foo ` is not `foo`: each name is its own service, and without it there is none."""
    plain = router.backend("foo")
    client = router.open(name)
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    own = router.backend(name)
    router.open(name).send(b"hello").end()
    assert own.accept().receive_all() == b"hello"
    plain.assert_untouched()


def test_success_is_silence(router):
    """The router answers nothing of its own to a service line: the service's bytes come first."""
    backend = router.backend("foo")
    client = router.open("foo")
    peer = backend.accept()
    peer.send(b"a").close()
    assert client.receive_all() == b"a"


def test_failure_is_silence(router):
    """A service line that leads nowhere closes the connection, without a byte."""
    client = router.open("nothing")
    client.expect_closed()
    router.wait_session(client, reason="not-found", service="nothing")


def test_failure_with_bytes_behind_the_line(router):
    """The same when the client has already sent more."""
    client = router.connect().send(b"nothing\r\n" + noise(100_000))
    client.expect_closed()
    router.wait_session(client, reason="not-found")


def test_reset_while_a_line_is_awaited(router):
    """A client that resets inside its line ends itself alone."""
    client = router.connect().send(b"fo")
    router.settle()
    client.reset()
    assert router.wait_session(client)["reason"] in ("client-reset", "client-closed")


def test_resets_of_silent_clients_harm_nobody(router):
    """In the first kaiso they cut unrelated connections."""
    router.echo("foo")
    others = [router.open("foo").exchange(b"before") for _ in range(5)]
    for _ in range(50):
        router.connect().reset()
    silent = router.connect()
    for client in others:
        client.exchange(b"after")
    silent.line("foo").exchange(b"me too")


def test_name_of_any_bytes(router):
    """Everything but control bytes is opaque: bytes that are no UTF-8 too."""
    every = bytes(byte for byte in range(0x21, 0x100) if byte not in b"/.\x7f")
    for name in (every[:120], every[120:], b"\xff\xfe", b"a\xc3"):
        backend = router.backend(name)
        router.connect().line(name).send(b"x").end()
        assert backend.accept().receive_all() == b"x"
    assert os.fsencode("\xe9") == b"\xc3\xa9"
    router.backend("\xe9")
    assert b"\xc3\xa9\r\n" in router.list()


def test_noise_instead_of_lines(router):
    """Whatever clients send, in whatever pieces, ends their own session at most."""
    router.echo("a")
    router.echo("b")
    dice = random.Random(4096)
    words = [b"a", b"b", b"/", b".", b"..", b"\r", b"\n", b"\r\n", b"\0", b" ", b".kaiso/", b"open ",
             b"list", b"version", b"\xff", b"x" * 1000, b"\x7f", b"passfd", b":80"]
    for _ in range(300):
        client = router.connect()
        try:
            for _ in range(dice.randrange(1, 8)):
                client.send(b"".join(dice.choices(words, k=dice.randrange(1, 12))))
            dice.choice((client.end, client.reset, client.close))()
        except OSError:
            pass  # closed on us already
        client.close()
    router.wait_fds_back()
    router.open("a").exchange(b"hello")
