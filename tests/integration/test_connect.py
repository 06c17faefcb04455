"""kaiso connect: standard input and output joined to a service, and the socket itself handed to ssh."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time
import tty

import pytest

from harness.first_kaiso import FirstKaiso
from harness.process import assert_quiet
from harness.router import KAISO, clean_environment, run_kaiso
from harness.services import Service, bind_tcp, closed_port, echo, receive_descriptors
from harness.stream import Stream, noise, noise_sum, receive_sum, send_noise
from harness.wait import DEADLINE, wait_until

LARGE = 16 << 20


def connect(*words, data=b"", **env):
    """Runs it to its end: CompletedProcess with bytes."""
    return subprocess.run([KAISO, "connect", *words], input=data, capture_output=True, timeout=3 * DEADLINE, check=False,
                          env=clean_environment(**env))


def expect_failure(result, status, *parts):
    """One line on standard error (with 2, a second one that names the help)."""
    assert result.returncode == status, (result.returncode, result.stderr)
    assert result.stdout == b""
    lines = result.stderr.splitlines()
    assert len(lines) == (2 if status == 2 else 1), result.stderr
    assert lines[0].startswith(b"kaiso connect: ")
    for part in parts:
        assert part.encode() in lines[0], result.stderr


class Running:
    """One that runs on, with pipes (or what is given) for its streams. kill() it at the end."""

    def __init__(self, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how):
        self.process = subprocess.Popen([KAISO, "connect", *words], stdin=stdin, stdout=stdout,
                                        stderr=subprocess.PIPE, env=clean_environment(), bufsize=0, **how)
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def read(self, count):
        got = b""
        while len(got) < count:
            assert select.select([self.stdout], [], [], DEADLINE)[0], f"nothing more after {got!r}"
            chunk = self.stdout.read(count - len(got))
            assert chunk, f"the output ended after {got!r}"
            got += chunk
        return got

    def expect_exit(self, status):
        assert self.process.wait(DEADLINE) == status, self.process.stderr.read()
        return self.process.stderr.read()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


@pytest.fixture
def run(router):
    return lambda *words, **how: router.keep(Running(*words, **how))


# ---- the relay

def test_exchange(router):
    """What goes in comes out, and the end of input ends it."""
    router.echo("d/foo")
    result = connect(router.address, "d/foo", data=b"hello\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello\n", b"")


@pytest.mark.parametrize("words", [["foo"], ["KAISO", "foo"], ["kaiso://KAISO/foo"], ["kaiso://KAISO", "foo"]])
def test_words(router, words):
    """SERVICE alone, KAISO SERVICE, a URL with both."""
    router.echo("foo")
    words = [word.replace("KAISO", router.address) for word in words]
    assert connect(*words, data=b"x", KAISO=router.address).stdout == b"x"


def test_service_of_the_environment(router):
    """$KAISO may be a URL that names the service; a word wins over it."""
    router.echo("foo")
    url = f"kaiso://{router.address}/nothing"
    assert connect("foo", data=b"x", KAISO=url).stdout == b"x"
    assert connect(data=b"x", KAISO=url.replace("nothing", "foo")).stdout == b"x"


@pytest.mark.parametrize("name, escaped", [(b"a b", "a%20b"), ("\u00e9".encode(), "%C3%A9"), (b"\xff", "%ff"),
                                           (b"-x", "-x"), (b"a?b#c%", "a%3Fb%23c%25")])
def test_odd_names(router, name, escaped):
    router.echo(name)
    assert connect(router.address, "--", name, data=b"x").stdout == b"x"
    assert connect(f"kaiso://{router.address}/{escaped}", data=b"x").stdout == b"x"


@pytest.mark.parametrize("listen", ["[::1]:0", "unix:ROOT/a b"])
def test_other_families(new_router, listen):
    router = new_router(start=False)
    router.listen = [listen.replace("ROOT", str(router.root))]
    router.start()
    router.echo("foo")
    assert connect(router.address, "foo", data=b"x").stdout == b"x"


def test_greeting_behind_the_verdict(router):
    """A service that speaks first: not a byte is lost, in the same segment or later."""
    router.service("foo", lambda stream: stream.send(b"greeting\r\n") and stream.receive_all())
    for _ in range(20):
        assert connect(router.address, "foo").stdout == b"greeting\r\n"


def test_answer_after_the_end_of_input(router):
    """Half-close: the service sees the end, and answers at leisure."""

    def count(stream):
        stream.send(b"%d bytes" % len(stream.receive_all()))

    router.service("foo", count)
    assert connect(router.address, "foo", data=bytes(100_000)).stdout == b"100000 bytes"
    assert connect(router.address, "foo", data=b"").stdout == b"0 bytes"


def test_input_after_the_end_of_output(router, run):
    """The other way round: our reader sees the service's end at once, and the service still takes input."""
    backend = router.backend("foo")
    client = run(router.address, "foo")
    peer = backend.accept().send(b"bye").end()
    assert client.read(3) == b"bye"
    assert client.stdout.read(1) == b""
    client.stdin.write(b"more")
    assert peer.receive(4) == b"more"
    client.stdin.write(b"and more")
    client.stdin.close()
    assert peer.receive_all() == b"and more"
    peer.close()
    client.expect_exit(0)


def test_input_after_the_end_of_output_on_one_socket(router, run):
    """A socket for both streams, as under inetd: half-closed, not just released."""
    backend = router.backend("foo")
    ours, theirs = socket.socketpair()
    client = run(router.address, "foo", stdin=theirs, stdout=theirs)
    theirs.close()
    with Stream(ours) as ours:
        peer = backend.accept().send(b"bye").end()
        assert ours.receive_all() == b"bye"
        ours.send(b"more").end()
        assert peer.receive_all() == b"more"
        peer.close()
        client.expect_exit(0)


def test_idle_relay_is_quiet(router, run):
    """Nothing to do, nothing done; nor when one direction has ended."""
    backend = router.backend("foo")
    client = run(router.address, "foo")
    peer = backend.accept()
    assert_quiet(client.process.pid)
    peer.end()
    assert client.stdout.read(1) == b""
    assert_quiet(client.process.pid)


def _source(stream):
    stream.receive_all()
    send_noise(stream, LARGE)


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_large_output(router, run, kind):
    """Checked bytes to a pipe, a file, a socket."""
    router.service("foo", _source)
    if kind == "file":
        path = router.root / "output"
        with open(path, "wb") as file:
            client = run(router.address, "foo", stdin=subprocess.DEVNULL, stdout=file)
        client.expect_exit(0)
        assert path.read_bytes() == noise(LARGE)
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        client = run(router.address, "foo", stdin=subprocess.DEVNULL, stdout=theirs)
        theirs.close()
        with Stream(ours) as stream:
            assert receive_sum(stream) == noise_sum(LARGE)
        client.expect_exit(0)
    else:
        result = connect(router.address, "foo")
        assert result.returncode == 0 and result.stdout == noise(LARGE)


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_large_input(router, run, kind):
    """The same from them."""
    sums = []
    router.service("foo", lambda stream: sums.append(receive_sum(stream)))
    if kind == "file":
        path = router.root / "input"
        path.write_bytes(noise(LARGE))
        with open(path, "rb") as file:
            run(router.address, "foo", stdin=file).expect_exit(0)
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        client = run(router.address, "foo", stdin=theirs)
        theirs.close()
        with Stream(ours) as stream:
            send_noise(stream, LARGE)
            client.expect_exit(0)
    else:
        assert connect(router.address, "foo", data=noise(LARGE)).returncode == 0
    wait_until(lambda: sums, "the service to see the end")
    assert sums == [noise_sum(LARGE)]


def test_large_both_ways(router):
    """An echo of more than all buffers together: neither direction waits for the other."""
    router.echo("foo")
    result = connect(router.address, "foo", data=noise(LARGE))
    assert result.returncode == 0 and result.stdout == noise(LARGE)


def test_reader_that_stalls(router, run):
    """A full standard output holds up the service, and not the input; no memory grows."""
    backend = router.backend("foo")
    client = run(router.address, "foo")
    peer = backend.accept()
    sender = threading.Thread(target=send_noise, args=(peer, LARGE), daemon=True)
    sender.start()
    wait_until(lambda: select.select([client.stdout], [], [], 0)[0], "the first bytes")
    client.stdin.write(b"still heard")
    assert peer.receive(11) == b"still heard"
    with open(f"/proc/{client.process.pid}/status", encoding="ascii") as status:
        assert int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) < 128 << 10
    assert sender.is_alive()
    assert client.read(LARGE) == noise(LARGE)
    sender.join(DEADLINE)
    client.stdin.close()
    peer.expect_end()
    peer.close()
    client.expect_exit(0)


def test_descriptors_in_non_blocking_mode(router, run):
    """Streams that whoever else has them open put into that mode: nothing is lost, nothing spins."""
    router.echo("foo")
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    client = run(router.address, "foo", stdin=theirs, stdout=theirs)
    with theirs, Stream(ours) as stream:
        stream.exchange(b"hello")
        assert_quiet(client.process.pid)
        sender = threading.Thread(target=send_noise, args=(stream, LARGE), daemon=True)
        sender.start()
        assert receive_sum(stream, LARGE) == noise_sum(LARGE)
        sender.join(DEADLINE)
        stream.close()
        client.expect_exit(0)
        assert not os.get_blocking(theirs.fileno()), "the mode is others' business"


def test_closed_input(router):
    """As good as an empty one."""
    router.service("foo", lambda stream: stream.send(b"%d" % len(stream.receive_all())))
    result = subprocess.run([KAISO, "connect", router.address, "foo"], stdout=subprocess.PIPE, timeout=DEADLINE,
                            check=False, env=clean_environment(), preexec_fn=lambda: os.close(0))
    assert (result.returncode, result.stdout) == (0, b"0")


def test_reader_that_leaves(router, run):
    """Ends it, by SIGPIPE as with any filter, and with it the service's connection."""
    backend = router.backend("foo")
    client = run(router.address, "foo")
    peer = backend.accept()
    client.stdout.close()
    peer.send(b"x")
    assert client.process.wait(DEADLINE) in (-signal.SIGPIPE, 1)
    assert client.process.stderr.read() == b""
    peer.expect_closed()


def test_full_device(router):
    router.service("foo", lambda stream: stream.send(b"x") and stream.receive_all())
    with open("/dev/full", "wb") as full:
        result = subprocess.run([KAISO, "connect", router.address, "foo"], stdin=subprocess.DEVNULL, stdout=full,
                                stderr=subprocess.PIPE, timeout=DEADLINE, check=False, env=clean_environment())
    assert result.returncode == 1 and b"standard output: No space left on device" in result.stderr


def test_input_that_cannot_be_read(router):
    router.service("foo", lambda stream: stream.receive_all())
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # its first page is not there to be read
        result = subprocess.run([KAISO, "connect", router.address, "foo"], stdin=memory, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, timeout=DEADLINE, check=False, env=clean_environment())
    expect_failure(result, 1, "standard input: ")


def test_service_that_resets(router, run):
    """A broken connection is not a clean end."""
    backend = router.backend_tcp("foo")
    client = run(router.address, "foo")
    peer = backend.accept().send(b"x")
    assert client.read(1) == b"x"
    peer.reset()
    assert b"cut off" in client.expect_exit(1)


def test_service_that_ends_before_the_input(router):
    """It never took all of it, and the caller learns that."""
    router.service("foo", lambda stream: stream.receive(10))
    result = connect(router.address, "foo", data=bytes(LARGE))
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert b"kaiso connect: service 'foo' at" in result.stderr


# ---- a terminal

class Terminal:
    """A process whose three streams are one terminal; the test holds the other end."""

    def __init__(self, *words):
        self.controller, terminal = pty.openpty()
        tty.setraw(terminal, termios.TCSANOW)
        attributes = termios.tcgetattr(terminal)
        attributes[3] |= termios.ICANON  # lines, and Ctrl-D, but no echo
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
        self.process = subprocess.Popen([KAISO, "connect", *words], stdin=terminal, stdout=terminal, stderr=terminal,
                                        env=clean_environment(), start_new_session=True)
        os.close(terminal)

    def write(self, data):
        os.write(self.controller, data)

    def read(self, count):
        got = b""
        while len(got) < count:
            assert select.select([self.controller], [], [], DEADLINE)[0], f"nothing more after {got!r}"
            got += os.read(self.controller, count - len(got))
        return got

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.controller)


def test_terminal(router):
    """Lines are sent as they are typed; Ctrl-D ends the input, and the answer still comes."""
    backend = router.backend("foo")
    terminal = router.keep(Terminal(router.address, "foo"))
    peer = backend.accept()
    terminal.write(b"hello\n")
    assert peer.receive(6) == b"hello\n"
    peer.send(b"answer")
    assert terminal.read(6) == b"answer"
    terminal.write(b"\x04")
    peer.expect_end()
    peer.send(b"last").close()
    assert terminal.read(4) == b"last"
    assert terminal.process.wait(DEADLINE) == 0


def test_terminal_is_not_waited_for(router):
    """When the service ends, nobody has to press Ctrl-D."""
    router.service("foo", lambda stream: stream.send(b"bye"))
    terminal = router.keep(Terminal(router.address, "foo"))
    assert terminal.read(3) == b"bye"
    assert terminal.process.wait(DEADLINE) == 0


# ---- reasons

def test_not_found(router):
    """Exit code 3, and where to look."""
    router.echo("something-else")
    expect_failure(connect(router.address, "foo"), 3, "no service 'foo'", "(not-found)", f"`kaiso ls {router.address}`")


@pytest.mark.parametrize("wanted, expected", [
    ("wbe", "did you mean 'web'?"),
    ("Web", "did you mean 'web'?"),
    ("we", "did you mean 'web'?"),
    ("webb", "did you mean 'web'?"),
    ("web/forge", "did you mean 'git/forge'?"),
    ("one", "did you mean 'a/one', 'b/one' or 'c/one'?"),
    ("git/froge", "did you mean 'git/forge'?"),
    ("x", "`kaiso ls"),
    ("far-from-anything", "`kaiso ls"),
])
def test_near_names(router, wanted, expected):
    for name in ("web", "git/forge", "a/one", "b/one", "c/one", "d/one", "database"):
        router.describe(name, "127.0.0.1:9\n")
    expect_failure(connect(router.address, wanted), 3, f"no service '{wanted}'", expected)


def test_near_names_reach_no_terminal_raw(router):
    router.describe(b"a\xc2\x9bcdefgh", "127.0.0.1:9\n")
    expect_failure(connect(router.address, b"abcdefgh"), 3, "did you mean 'a\\xc2\\x9bcdefgh'?")


def test_unavailable(router):
    router.backend("dead").close()
    expect_failure(connect(router.address, "dead"), 5, "service 'dead'", "(unavailable)", "is its server running?")


def test_invalid(router):
    router.describe("bad", "a:b:c\n")
    expect_failure(connect(router.address, "bad"), 5, "service 'bad'", "(invalid)", "`kaiso check`")


def test_connect_timeout_of_the_router(new_router):
    router = new_router("--connect-timeout", "200ms")
    fillers = router.backend("foo", backlog=1).fill_backlog()
    expect_failure(connect(router.address, "foo"), 5, "(timeout)")
    for filler in fillers:
        filler.close()


def test_limit(new_router):
    router = new_router("--max-requests-per-second", "1")
    router.echo("foo")
    results = [connect(router.address, "foo") for _ in range(10)]
    refused = [result for result in results if result.returncode != 0]
    assert refused
    for result in refused:
        expect_failure(result, 5, "(limit)", "try again later")


def _answering(router, line):
    return router.keep(Service(bind_tcp(), lambda stream: stream.receive_line() and stream.send(line)))


@pytest.mark.parametrize("line, status, part", [
    (b"-denied not open to this address\r\n", 4, "not open to this address (denied); ask"),
    (b"-loop text\r\n", 5, "text (loop); "),
    (b"-new-code the text\n", 5, "the text (new-code); "),
    (b"-new\r\n", 5, " (new); "),
    (b"-unavailable a\x1b[2Jb\r\n", 5, "a\\x1b[2Jb (unavailable)"),
    (b"-", 1, "Connection reset"),
    (b"+x\r\n", 1, "no kaiso"),
    (b"-\r\n", 1, "no kaiso"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1, "no kaiso"),
    (b"SSH-2.0-x\r\n", 1, "no kaiso"),
    (b"-" + b"x" * 5000, 1, "no kaiso"),
], ids=["denied", "loop", "new-code", "new-code-alone", "escape", "cut", "plus", "minus", "http", "ssh", "long"])
def test_other_answers(router, line, status, part):
    """Codes that only other routers know, and what is no kaiso at all."""
    expect_failure(connect(_answering(router, line).address, "foo"), status, part)


def test_no_router():
    port, holder = closed_port()
    with holder:
        expect_failure(connect(f"127.0.0.1:{port}", "foo"), 1, f"no router at 127.0.0.1:{port}",
                       f"`kaiso serve 127.0.0.1:{port}`")
    expect_failure(connect("no-such-host.invalid", "foo"), 1, "no-such-host.invalid")


def test_timeout(router):
    """A router that says nothing. Once connected, time does not matter."""
    silent = router.keep(Service(bind_tcp(), lambda stream: stream.receive_all()))
    begin = time.monotonic()
    expect_failure(connect("--timeout", "300ms", silent.address, "foo"), 1, "too long to answer", "--timeout")
    assert time.monotonic() - begin > 0.2
    release = threading.Event()
    router.service("foo", lambda stream: release.wait(0.5) or stream.send(b"late"))
    assert connect("--timeout", "300ms", router.address, "foo").stdout == b"late"


@pytest.mark.parametrize("words, part", [
    ([], "expected the name of a service"),
    (["h", "foo", "x"], "more words"),
    (["h", ""], "expected the name"),
    (["kaiso://h"], "expected the name"),
    (["kaiso://h/a", "b"], "named twice"),
    (["h", "d/"], "`kaiso ls` lists it"),
    (["h", "a\nb"], "'a\\x0ab' holds a control byte"),
    (["h", "a\r"], "holds a control byte"),
    (["h", ".x\n"], "holds a control byte"),
    (["h", "x" * 4096], "too long"),
    (["h:0", "foo"], "from 1 to 65535"),
    (["--timeout", "x", "foo"], "expected a number with a unit"),
    (["--fdpass", "h", "foo"], "no UNIX socket"),
    (["--nonsense"], "--nonsense"),
])
def test_usage(words, part):
    """Exit code 2, the mistake, and where to read more."""
    expect_failure(connect(*words), 2, part)


def test_longest_name(router):
    """A name that fits a request line but not behind `.kaiso/open`: asked for in the plain form."""
    name = "/".join(["x" * 200] * 20)[:4093]
    router.echo(name)
    assert connect(router.address, name, data=b"hello").stdout == b"hello"


def test_help():
    result = connect("--help")
    assert result.returncode == 0 and result.stderr == b""
    for word in (b"KAISO", b"SERVICE", b"--fdpass", b"--timeout", b"kaiso://", b"unix:", b"ProxyUseFdpass yes",
                 b"Exit status", b"3 no such"):
        assert word in result.stdout
    assert b" connect " in run_kaiso("--help").stdout


# ---- the first kaiso

@pytest.fixture
def first(router):
    return router.keep(FirstKaiso({b"web": echo, b"silent": lambda stream: stream.receive_all()}))


def test_first_kaiso(first):
    """Asked in words for tools, it closes; then in its own way."""
    result = connect(first.address, "web", data=noise(1 << 20))
    assert (result.returncode, result.stderr) == (0, b"") and result.stdout == noise(1 << 20)
    assert first.lines == [b".kaiso/open web", b"web"]


def test_first_kaiso_without_that_service(first):
    """It says nothing, but its list does."""
    expect_failure(connect(first.address, "wbe", data=b"GET /\r\n"), 3, "no service 'wbe'", "did you mean 'web'?")


def test_first_kaiso_with_a_silent_service(first):
    """Not a byte came, and all is well."""
    result = connect(first.address, "silent", data=b"x")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_no_words_for_tools(new_router):
    """The same with ours, where they are turned off."""
    router = new_router("--no-verbs")
    router.echo("foo")
    assert connect(router.address, "foo", data=b"hello").stdout == b"hello"
    expect_failure(connect(router.address, "fo", data=b"x"), 3, "did you mean 'foo'?")


def test_router_that_closes(router):
    """Without a word to anything: exit code 5."""
    service = router.keep(Service(bind_tcp(), lambda stream: stream.receive_line()))
    expect_failure(connect(service.address, "foo"), 5, "closes the connection without a word")


# ---- --fdpass

def fdpass(*words):
    """What ssh does: (exit status, standard error, the socket it got or None, the byte with it)."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen([KAISO, "connect", "--fdpass", *words], stdin=subprocess.DEVNULL, stdout=theirs,
                                       stderr=subprocess.PIPE, env=clean_environment())
        _, complaints = process.communicate(timeout=DEADLINE)
        data, fds = receive_descriptors(ours)
        assert ours.recv(1) == b"", "more than one byte"
        assert len(fds) == len(data) <= 1
        return process.returncode, complaints, Stream(socket.socket(fileno=fds[0])) if fds else None


def test_fdpass(router):
    """One byte and one connected socket, in blocking mode; the process is gone, the session lives."""
    router.echo("foo")
    status, complaints, stream = fdpass(router.address, "foo")
    assert (status, complaints) == (0, b"")
    with stream:
        stream.sock.settimeout(None)
        assert os.get_blocking(stream.sock.fileno())
        stream.sock.settimeout(DEADLINE)
        stream.exchange(b"hello")
        assert stream.end().receive_all() == b""


def test_fdpass_loses_nothing(router):
    """Exactly the verdict is taken from the socket: what the service said meanwhile is still in it."""
    router.service("foo", lambda stream: stream.send(b"+\r\ngreeting") and stream.receive_all())
    for _ in range(20):
        status, complaints, stream = fdpass(router.address, "foo")
        assert (status, complaints) == (0, b"")
        with stream:
            assert stream.receive(11) == b"+\r\ngreeting"


def test_fdpass_of_the_first_kaiso(first):
    status, complaints, stream = fdpass(first.address, "web")
    assert (status, complaints) == (0, b"")
    with stream:
        stream.exchange(b"hello")


def test_fdpass_refused(router):
    """Nothing is handed over then; the reason goes to standard error."""
    status, complaints, stream = fdpass(router.address, "foo")
    assert status == 3 and stream is None and b"(not-found)" in complaints


@pytest.mark.parametrize("kind", ["pipe", "tcp"])
def test_fdpass_needs_a_unix_socket(router, kind):
    router.echo("foo")
    if kind == "pipe":
        expect_failure(connect("--fdpass", router.address, "foo"), 2, "ProxyUseFdpass")
        return
    with router.connect() as client:
        result = subprocess.run([KAISO, "connect", "--fdpass", router.address, "foo"], stdin=subprocess.DEVNULL,
                                stdout=client.sock, stderr=subprocess.PIPE, timeout=DEADLINE, check=False,
                                env=clean_environment())
    assert result.returncode == 2 and b"no UNIX socket" in result.stderr


# ---- ssh

@pytest.fixture
def ssh(router, tmp_path):
    """A real sshd as the service `ssh`; returns a function that runs the real client through a ProxyCommand."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert sshd and shutil.which("ssh"), "openssh-server and openssh-client are missing (tools/deps test)"
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True,
                       stdin=subprocess.DEVNULL)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    os.makedirs("/run/sshd", exist_ok=True)  # sshd wants it for privilege separation
    with bind_tcp() as listener:
        port = listener.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n")
    with open(tmp_path / "sshd.log", "wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", tmp_path / "sshd_config"], stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log)

    def listens():
        assert server.poll() is None, (tmp_path / "sshd.log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, "sshd to listen")
    router.describe("ssh", f"127.0.0.1:{port}\n")

    def run(command, *options, data=b""):
        words = ["ssh", "-F", "none", "-i", tmp_path / "user", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
                 "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "LogLevel=ERROR",
                 *options, "box", command]
        return subprocess.run(words, input=data, capture_output=True, timeout=3 * DEADLINE, check=False,
                              env=clean_environment(HOME=tmp_path, KAISO=router.address))

    yield run
    server.terminate()
    server.wait(DEADLINE)


@pytest.mark.parametrize("options", [
    ["-o", f"ProxyCommand={KAISO} connect --fdpass ssh", "-o", "ProxyUseFdpass=yes"],
    ["-o", f"ProxyCommand={KAISO} connect ssh"],
], ids=["fdpass", "relay"])
def test_ssh(ssh, options):
    """A command with its exit status, and checked bytes both ways."""
    result = ssh("cat; echo done >&2; exit 7", *options, data=noise(3 << 20))
    assert (result.returncode, result.stderr) == (7, b"done\n")
    assert result.stdout == noise(3 << 20)


@pytest.mark.parametrize("options", [
    ["-o", f"ProxyCommand={KAISO} connect --fdpass shs", "-o", "ProxyUseFdpass=yes"],
    ["-o", f"ProxyCommand={KAISO} connect shs"],
], ids=["fdpass", "relay"])
def test_ssh_to_a_service_that_is_not_there(ssh, options):
    """The reason comes through to whoever called ssh."""
    result = ssh("true", *options)
    assert result.returncode == 255
    assert b"no service 'shs'" in result.stderr and b"did you mean 'ssh'?" in result.stderr
