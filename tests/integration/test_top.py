"""kaiso top, at terminals of many sizes and sorts: what stands on the screen, and what keys do."""

import json
import os
import re
import signal

import pytest

from harness.router import KAISO, run_kaiso
from harness.screen import Screen
from harness.services import Service, bind_unix
from harness.wait import wait_until

COLOURS = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-7]|4[0-7]|[34]8)[;m]")


@pytest.fixture
def path(tmp_path):
    """Of the control socket."""
    return tmp_path / "control"


@pytest.fixture
def router(new_router, path):
    return new_router("--control", str(path), "--threads", "1")


@pytest.fixture
def top(path):
    """top(**see Screen): a screen with kaiso top in it, which has to end well."""
    screens = []

    def make(*options, **how):
        screens.append(Screen(KAISO, "top", "--control", path, "--interval", "100ms", *options, **how))
        return screens[-1]

    yield make
    for screen in screens:
        screen.close()


def talk(router, name, size=3):
    """A session of this service that has carried so many bytes each way."""
    client = router.open(name)
    client.send(b"x" * size)
    client.receive(size)
    return client


def quit_it(screen):
    screen.press("q")
    assert "ended 0\n" in screen.wait("ended", "restored")


# ---- what stands there

def test_sizes(router, top):
    """All of it at 80 x 24; more in more room, the least important left out in less; and resized while it runs."""
    router.echo("web")
    router.describe("broken", "127.0.0.1:1\n")
    talk(router, "web", 5000)
    with router.open("broken") as client:
        client.receive_all()
    waiting = router.connect()
    screen = top()
    text = screen.wait("(request)", "4.9K 4.9K", "0 refused")
    assert re.search(r"^kaiso \S+  up \d+s  127\.0\.0\.1:\d+ +every 100ms$", text, re.MULTILINE), text
    assert "2 open of at most " in text
    assert re.search(r"^>\S+ ", text, re.MULTILINE)
    assert re.search(r"^.broken +tcp +0 +0 +1 +- +- +0 +0", text, re.MULTILINE), text
    assert re.search(r"^ web +127\.0\.0\.1:\d+ +relay +\d+s +- +- 4\.9K 4\.9K", text, re.MULTILINE), text
    assert re.search(r"^ \(request\) +" + re.escape(waiting.name) + " +request", text, re.MULTILINE), text
    for columns, rows, there, left_out in [
        (120, 40, [" ID "], []), (60, 10, ["SERVICE"], [" KIND", " STATE", " ID ", "\nprocess"]),
        (30, 5, ["SERVICE"], ["SENT "]), (20, 4, ["too small"], ["SERVICE"]), (80, 24, ["KIND", "STATE"], [" ID "]),
    ]:
        screen.resize(columns, rows)
        text = screen.wait(*there, without=left_out)
        assert len(text.splitlines()) <= rows
        assert all(len(line) <= columns for line in text.splitlines())
    quit_it(screen)


def test_rates(router, top):
    """What flows at the moment, and how that was over time."""
    router.echo("web")
    with talk(router, "web") as client:
        screen = top()
        screen.wait(" web ")

        def is_shown():
            client.send(b"x" * 20000)
            client.receive(20000)
            return re.search(r"^.web +unix +1 +1 +0 +[\d.]+[KM] +[\d.]+[KM] .*[▁-█]", screen.text(), re.MULTILINE)

        wait_until(is_shown, lambda: "rates on:\n" + screen.text())
    assert screen.wait("0 open", "no session is open")
    quit_it(screen)


def test_ascii(router, top):
    """Where the locale has no more: no character that it lacks."""
    router.echo("née")
    with talk(router, "née"):
        screen = top(LC_ALL="C")
        assert screen.wait(" TRAFFICv", ">n?e ").isascii()
        quit_it(screen)


# ---- keys

def test_keys(router, top):
    """Panes, selection, order and help."""
    for name in ("alpha", "beta", "gamma"):
        router.echo(name)
        talk(router, name, 1000 if name == "beta" else 10)
    screen = top()
    screen.wait("alpha", "beta", "gamma", " 1/3")
    screen.press("s")
    screen.wait("SERVICE▼")
    screen.press("j", "Down")
    screen.wait(" 3/3\n", ">gamma ")
    screen.press("r")  # the selection goes with its row
    screen.wait("SERVICE▲", " 1/3\n", ">gamma ")
    screen.press("Up", "S", "k")
    screen.wait("SERVICE▼", ">beta ", " 2/3\n")
    screen.press("Home")
    screen.wait(">alpha ")
    screen.press("End")
    screen.wait(">gamma ")
    screen.press("g", "G", "PPage")
    screen.wait(">alpha ")
    screen.press("Tab")
    screen.wait("SESSION TO", " 1/3\n")
    screen.press("s", "s", "s", "s", "s", "s", "s", "s")  # round to the sums: SENT
    screen.wait(" RECV▼")
    screen.wait(">beta ")
    screen.press("BTab")
    screen.wait(">alpha ")
    screen.press("h")
    screen.wait("other pane", "Any key", without=["alpha"])
    screen.press("x")
    screen.wait(">alpha ", without=["other pane"])
    quit_it(screen)


def test_filter(router, top):
    """Both panes show only what has the text in it, as it is typed."""
    for name in ("web/one", "web/two", "über"):
        router.echo(name)
        talk(router, name)
    screen = top()
    screen.wait("web/one", "über")
    screen.press("/", "W", "E", "x", "BSpace", "b")
    screen.wait("filter: WEb", "web/two", without=["über"])
    screen.press("q", "BSpace", "Enter")  # q is text here
    text = screen.wait("filter: WEb", " 1/2\n", without=["über"])
    assert text.count("web/one") == text.count("web/two") == 2
    screen.press("/", "C-h", "BSpace", "BSpace", "ü")
    screen.wait("filter: ü", without=["web"])
    screen.press("x")
    screen.wait("no service has", "no session has")
    screen.press("Escape")
    screen.wait("web/one", "über", " 1/3\n", without=["filter:"])
    quit_it(screen)


def test_pause(router, top):
    """Nothing moves until it goes on."""
    router.echo("web")
    with talk(router, "web"):
        screen = top()
        screen.wait(" web ", "1 open")
        screen.press("p")
        screen.wait("PAUSED")
        talk(router, "web")
        before = screen.wait("PAUSED", "1 open").replace(">", " ")
        screen.press("h")  # keys work
        screen.wait("Any key")
        screen.press("x")
        assert screen.wait("PAUSED", "1 open").replace(">", " ") == before
        screen.press("+", "-", "-", "Space")
        screen.wait("2 open", "every 100ms", without=["PAUSED"])
        screen.press("+")
        screen.wait("every 250ms")
        quit_it(screen)


def test_close(router, top):
    """Ends the selected session, after a question."""
    router.echo("web")
    with talk(router, "web") as client:
        screen = top()
        screen.wait(">web ")
        screen.press("c")
        screen.wait("Tab goes to them")
        screen.press("Tab", "c")
        screen.wait("Close session ", f" of {client.name} to web? y/n")
        screen.press("n")
        screen.wait("not closed", "1 open", without=["y/n"])
        screen.press("DC")
        screen.wait("to web? y/n")
        screen.press("y")
        screen.wait(": closed", "0 open", "no session is open")
        client.expect_closed()
        router.wait_session(client, reason="closed")
        screen.press("c")
        screen.wait("no session to be closed")
        quit_it(screen)


def test_close_while_paused(router, top):
    router.echo("web")
    with talk(router, "web") as client:
        screen = top()
        screen.wait(">web ")
        screen.press("p", "Tab", "c", "y")
        screen.wait(": closed", "PAUSED")
        client.expect_closed()
        quit_it(screen)


def test_redraw(router, top):
    """Ctrl-L, where something else has written on the terminal."""
    screen = top()
    screen.wait("no session is open")
    terminal = screen.tmux("display-message", "-p", "#{pane_tty}").strip()
    with open(terminal, "wb", buffering=0) as file:
        file.write(b"\x1b[5;1Hspoilt\x1b[1;1H")
    screen.wait("spoilt")
    screen.press("C-l")
    screen.wait(" SERVICE", without=["spoilt"])
    quit_it(screen)


# ---- terminals

def test_colours(router, top):
    """Where the terminal has them, and nobody says no."""
    router.echo("web")
    talk(router, "web")
    screens = [top(), top(TERM="vt100"), top(NO_COLOR="1")]
    for screen in screens:
        screen.wait(">web ")
    assert COLOURS.search(screens[0].styled())
    for screen in screens[1:]:
        assert not COLOURS.search(screen.styled()), screen.styled()
        assert "\x1b[7m" in screen.styled()  # the selected row
    for screen in screens:
        quit_it(screen)


@pytest.mark.parametrize("variables, words", [
    ({"TERM": "dumb"}, "kaiso top: TERM is 'dumb': that terminal cannot move its cursor; -b prints"),
    ({"TERM": "a\x1bb"}, "kaiso top: TERM is 'a\\x1bb': no such terminal is known here; -b prints"),
])
def test_no_such_terminal(router, top, variables, words):
    screen = top(columns=120, **variables)
    assert words in screen.wait("ended 1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(router, top, number):
    """The terminal is left as it was."""
    screen = top()
    screen.wait("sessions")
    os.kill(screen.pid, number)
    assert screen.wait("ended", "restored").startswith(f"before\nended -{number:d}\n")


def test_stopped(router, top):
    """By Ctrl-Z; and the screen is there again when it goes on."""
    screen = top()
    screen.wait("sessions")
    screen.press("C-z")
    assert screen.wait("stopped").startswith("before\nstopped\n")
    screen.press("Enter")
    screen.wait("sessions", without=["stopped"])
    screen.press("h")
    screen.wait("Any key")
    screen.press("h")
    screen.wait("sessions")
    quit_it(screen)


# ---- the router

def test_another_router(new_router, path, top):
    """Says that there is none, and goes on with the next one."""
    first = new_router("--control", str(path), "--threads", "1")
    screen = top()
    screen.wait("up ", "every 100ms")
    first.signal(signal.SIGTERM)
    first.wait_exit()
    screen.wait("NO ROUTER", "trying again")
    second = new_router("--control", str(path), "--threads", "1")
    screen.wait("another router answers now", f"process {second.pid}", second.address, without=["NO ROUTER"])
    second.echo("web")
    talk(second, "web")
    screen.wait(" web ")
    quit_it(screen)


def test_upgraded_router(router, top):
    """Every session is still there."""
    router.echo("web")
    client = talk(router, "web")
    screen = top()
    screen.wait(" web ", without=["up 0s"])  # it is told apart by the second
    router.signal(signal.SIGUSR2)
    screen.wait("the router was upgraded", " web ", "1 open")
    client.send(b"more").receive(4)
    quit_it(screen)


def test_draining_router(router, top):
    router.echo("web")
    with talk(router, "web"):
        screen = top()
        screen.wait("1 open")
        router.signal(signal.SIGTERM)
        screen.wait("DRAINING", "1 open")
    screen.wait("NO ROUTER")
    quit_it(screen)


def test_router_that_hangs(router, top):
    """Keys work all the same."""
    screen = top()
    screen.wait("sessions")
    router.signal(signal.SIGSTOP)
    try:
        screen.press("h")
        screen.wait("Any key")
        screen.press("h")
        screen.wait("sessions", "every 100ms")
        quit_it(screen)
    finally:
        router.signal(signal.SIGCONT)


def test_answer_that_stops_halfway(path, top):
    """Keys work all the same."""
    answer = b'{"version":"1","pid":1,"services":[],"sessions":[]}\n'
    halves = []

    def serve(stream):
        while stream.sock.recv(64):
            stream.send(answer if not halves else answer[:20])
            halves.append(answer)

    service = Service(bind_unix(os.fsencode(path)), serve)
    try:
        screen = top()
        screen.wait("sessions")
        wait_until(lambda: len(halves) > 1, "the half")
        screen.press("h")
        wait_until(lambda: "Any key" in screen.text(), "an answer to a key", timeout=5)
        screen.press("h")
        quit_it(screen)
    finally:
        service.close()


def test_no_router(path):
    result = run_kaiso("top", "--control", str(path))
    assert result.returncode == 1
    assert re.fullmatch(rb"kaiso top: \S+/control: No such file or directory; .*\n", result.stderr)


# ---- hostile names

HOSTILE = ["日本語/サービス", "e\u0301\u0301\u0301\u0301", "\u202edetrevni", "a\u200db", "x" * 200, b"no\xff\xc3utf8"]


def test_hostile_names(router, top):
    """Of services: each row stays a row, in its columns."""
    for name in HOSTILE:
        router.describe(name, "127.0.0.1:1\n")
        with router.open(name) as client:
            client.receive_all()
    screen = top()
    text = screen.wait("日本語", "xxx…", "a\ufffdb", "\ufffddetrevni", "no\ufffd\ufffdutf8")
    rows = [line for line in text.splitlines() if re.search(r" tcp +0 +0 +1 ", line)]
    assert len(rows) == len(HOSTILE)
    quit_it(screen)


CONTROL = "\x1b[2J\x1b]0;title\x07\x9b1m\r\n\u2028"


def test_hostile_router(path, top):
    """Nothing that a terminal would obey gets through, whatever field it comes in."""
    row = {"service": CONTROL, "kind": CONTROL, "id": CONTROL, "client": CONTROL, "state": CONTROL, "open": 1,
           "sent": 2**62, "received": -1, "seconds": 1e300}
    answer = json.dumps({"version": CONTROL, "listeners": [{"address": CONTROL}, 3], "pid": 1, "services": [row, row],
                         "sessions": [{}, 7, row], "cpu_seconds": "x", "limits": []}).encode() + b"\n"

    def serve(stream):
        while stream.sock.recv(64):
            stream.send(answer)

    service = Service(bind_unix(os.fsencode(path)), serve)
    try:
        result = run_kaiso("top", "--control", str(path), "-b", "--interval", "100ms", LC_ALL="C.UTF-8", COLUMNS=200)
        assert (result.returncode, result.stderr) == (0, b"")
        text = result.stdout.decode()
        assert "kaiso \\x1b[2J\\x1b]0;title\\x07\\xc2\\x9b1m\\x0d\\x0a\\xe2\\x80\\xa8" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", text)
        screen = top()
        screen.wait("kaiso \\x1b[2J")
        screen.press("Tab", "End", "c")
        screen.wait("Close session \\x1b[2J")
        screen.press("n")
        quit_it(screen)
    finally:
        service.close()


# ---- one screen as text

def test_once(router, path):
    """In a pipe, and by -b; everything, however much, and nothing for a terminal."""
    for number in range(40):
        router.echo(f"service-{number}")
        talk(router, f"service-{number}")
    texts = []
    for options in [], ["-b"], ["--once"]:
        result = run_kaiso("top", "--control", str(path), "--interval", "100ms", *options, LC_ALL="C.UTF-8")
        assert (result.returncode, result.stderr) == (0, b"")
        texts.append(result.stdout.decode())
    for text in texts:
        assert "\x1b" not in text and ">" not in text and "40 open" in text
        assert all(text.count(f" service-{number} ") == 2 for number in range(40))
        assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    wide = run_kaiso("top", "--control", str(path), "--interval", "100ms", LC_ALL="C", COLUMNS=132).stdout
    assert wide.isascii() and max(map(len, wide.splitlines())) == 132


def test_by_variable(router, path):
    assert b"0 open" in run_kaiso("top", "--interval", "100ms", KAISO_CONTROL=path).stdout


@pytest.mark.parametrize("words, part", [
    (["--interval", "99ms"], "--interval '99ms': expected a number with a unit, from 100ms to 1h"),
    (["--interval", "2h"], "'2h'"), (["--interval", "\x1b"], "'\\x1b'"), (["--interval", "1"], "'1'"),
    (["word"], "it takes no words"), (["-x"], "invalid option"),
])
def test_usage(words, part):
    result = run_kaiso("top", *words)
    assert result.returncode == 2 and result.stdout == b""
    assert result.stderr.startswith(b"kaiso top: ") and part in result.stderr.decode()
    assert result.stderr.endswith(b"Try `kaiso top --help`.\n")
