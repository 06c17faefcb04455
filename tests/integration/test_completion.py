"""Completion in bash, zsh and fish, each at a terminal: what TAB makes of a line, and that no name is ever run."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from harness.router import KAISO, Router, run_kaiso
from harness.services import Service, bind_tcp
from harness.shells import Shell

KINDS = ["bash", "zsh", "fish"]

# Names that a shell would obey, each with a first letter of its own; none holds a slash.
HOSTILE = [
    "a$(touch made)", "b`touch made`", "c;touch made", "d|touch made", "e&touch made", "f>made", "G word", "h'quote",
    'i"quote', "j\\back", "k!event", "l*", "m?[x]{y,z}", "n~", "o#hash", "p:colon", "q=equals", "r@at", "s%20",
    "t\u00e4\u00f6", "u<made", "v(x)", "w^x", "x$HOME", "y'$(touch made)'", 'z"$(touch made)"', "A\\$(touch made)",
    "B'\"`\\ $(touch made)",
]
PLAIN = ["git/forge", "git/hooks/x"]
UNSHOWN = [b"C\xc2\x9bcontrol", b"D\xffbytes", b"-rf", b"E\xe2\x80\xa8line"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def services():
    """A router with services of all these names, which say one word and end."""
    router = Router("--threads", "1").start()
    try:
        service = router.service_tcp(None, lambda stream: stream.send(b"word\n"))
        for name in [*HOSTILE, *PLAIN, *UNSHOWN]:
            router.describe(name, service.address + "\n")
        yield router
        router.close_things()
        router.stop()
    finally:
        router.kill()
        router.remove()


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """The directory for shared data, once kaiso is installed."""
    directory = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", Path(KAISO).parent, "--no-rebuild", "--destdir", directory,
                    "--tags", "runtime"], check=True, stdout=subprocess.DEVNULL)
    return next(directory.rglob("bash-completion")).parent


@pytest.fixture
def new_shell(kind, tmp_path, share):
    """new_shell(**see Shell): another one."""
    made = []

    def make(**how):
        made.append(Shell(kind, tmp_path, share, **how))
        return made[0]

    yield make
    made[0].close()


@pytest.fixture(scope="module")
def shell(kind, tmp_path_factory, share):
    one = Shell(kind, tmp_path_factory.mktemp(kind), share)
    try:
        yield one
        assert os.listdir(one.work) == [], f"{kind} has run something"
    finally:
        one.close()


def same(line, expected):
    """Is it the expected line? What stands behind its last word is the shell's habit."""
    return line.rstrip(" ") == expected


@pytest.fixture(scope="module")
def completions(kind, shell):
    """completions(LINE): all that its last word can become, in order."""

    def in_fish(line, attempts=4):
        script = "set -p fish_complete_path $SHARE/fish/vendor_completions.d; complete -C $argv[1]"
        result = subprocess.run(["fish", "--no-config", "-c", script, line], capture_output=True, text=True, check=True,
                                stdin=subprocess.DEVNULL, env=shell.environment, cwd=shell.work)
        assert result.stderr == ""
        if result.stdout == "" and attempts > 1:
            return in_fish(line, attempts - 1)
        return sorted(one.partition("\t")[0] for one in result.stdout.splitlines())

    def in_line(line):
        before = line[:line.rindex(" ") + 1]
        after = shell.complete(line, "\x07")
        assert after.startswith(before), after
        found = shlex.split(after[len(before):])
        return sorted(found) if found != shlex.split(line[len(before):]) else []

    return in_fish if kind == "fish" else in_line


def commands():
    listed = re.search(r"^Commands:\n((?: .*\n)+)", run_kaiso("--help").stdout.decode(), re.MULTILINE)[1]
    return re.findall(r"^  ([a-z][a-z-]*) ", listed, re.MULTILINE)


# ---- commands and options

def test_commands(completions):
    assert completions("kaiso ") == sorted([*commands(), "--help", "--version"])
    assert completions("kaiso --") == ["--help", "--version"]


@pytest.mark.parametrize("line, expected", [
    ("kaiso con", "kaiso connect"), ("kaiso serve --no-s", "kaiso serve --no-sandbox"),
    ("kaiso 127.0.0.1:37812 --no-s", "kaiso 127.0.0.1:37812 --no-sandbox"),
    ("kaiso serve --user roo", "kaiso serve --user root"), ("kaiso-expose --no-s", "kaiso-expose --no-sandbox"),
    ("kaiso-inject --ro", "kaiso-inject --route"),
])
def test_tab(shell, line, expected):
    assert same(shell.complete(line), expected)


@pytest.mark.parametrize("command", commands())
def test_options(completions, command):
    """All that --help tells, of whatever commands there are."""
    told = re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]*)", run_kaiso(command, "--help").stdout.decode(), re.MULTILINE)
    assert completions(f"kaiso {command} --") == sorted(told)


@pytest.mark.parametrize("option, values", [
    ("serve --log-level", ["debug", "error", "info", "warning"]), ("serve --log-format", ["json", "logfmt"]),
    ("expose --relay-up", ["auto", "copy", "splice"]), ("serve --relay-down", ["auto", "copy", "splice"]),
    ("inject --mode", ["auto", "preload", "seccomp"]), ("passfd --mode", ["auto", "preload", "seccomp"]),
])
def test_values(completions, option, values):
    assert completions(f"kaiso {option} ") == values
    joined = completions(f"kaiso {option}=")
    name = option.split()[1]
    assert [one.removeprefix(f"{name}=") for one in joined] == values


def test_files(shell):
    """Directories of services, and sockets, also behind unix:."""
    for line in ("kaiso serve --services ../hom", "kaiso check --services=../hom", "kaiso passfd ../hom",
                 "kaiso expose unix:../hom", "kaiso expose 127.0.0.1:1 x unix:../hom", "kaiso ls unix:../hom",
                 "kaiso mirror --cacert ../hom", "kaiso mirror http://127.0.0.1:1,[::1]:1 /k/ ../hom"):
        assert same(shell.complete(line), line + "e/"), line


# ---- services

def test_services(completions, services):
    """At the address given; not those that a terminal could not show, or that would be taken for options."""
    assert completions(f"kaiso connect {services.address} ") == sorted([*HOSTILE, *PLAIN])


@pytest.mark.parametrize("before", [
    "connect {}", "connect --timeout 5s {}", "connect --timeout=5s --fdpass '{}'", 'connect "{}"', "inject {}",
    "inject --mode seccomp {}", "expose {}", "expose --max-sessions 5 {} x y",
])
def test_where_services_stand(shell, services, before):
    """Behind options with and without values, and quotes around the address."""
    line = f"kaiso {before.format(services.address)} git/f"
    assert same(shell.complete(line), line + "orge")


@pytest.mark.parametrize("line, behind", [
    ("kaiso-inject {} git/f", "orge"), ("kaiso-expose {} git/f", "orge"), ("kaiso connect kaiso://{}/git/f", "orge"),
    ("kaiso inject kaiso://{}/git/f", "orge"), ("kaiso inject --route {}=git/f", "orge"),
    ("kaiso inject --route=kaiso://{}/git/f", "orge"), ("kaiso ls {} git/h", "ooks/"), ("kaiso ls {} g", "it/"),
])
def test_other_places(shell, services, line, behind):
    line = line.format(services.address)
    assert shell.complete(line).startswith(line + behind)


def test_services_of_the_usual_router(new_shell, services):
    """$KAISO, where the line names none."""
    shell = new_shell(KAISO=services.address)
    assert same(shell.complete("kaiso connect git/f"), "kaiso connect git/forge")
    assert same(shell.complete("kaiso ls git/h"), "kaiso ls git/hooks/")


def run(shell, services, line, name):
    """Return is pressed: the router is asked for that very name, and nothing else happens."""
    count = len(services.log.find(msg="session", service=name))
    shell.press("\r")
    shell.wait_for(lambda: len(services.log.find(msg="session", service=name)) > count,
                   f"a session with {name}, by {line}")
    shell.read_line()
    assert os.listdir(shell.work) == [], line


def test_services_in_urls(shell, services):
    """Encoded, so that nothing is left for a shell to obey."""
    for start, name in (("a", HOSTILE[0]), ("t%C3", "t\u00e4\u00f6"), ("G", "G word")):
        after = shell.complete(f"kaiso connect kaiso://{services.address}/{start}")
        assert after != f"kaiso connect kaiso://{services.address}/{start}"
        run(shell, services, after, name)


@pytest.mark.parametrize("line", ["kaiso inject {} x -- ec", "kaiso inject {} x ec", "kaiso inject kaiso://{}/x -- ec",
                                  "kaiso passfd x -- ec", "kaiso passfd --no-tcp x ec", "kaiso-passfd 3 x ec"])
def test_programs(shell, services, line):
    """And words behind them as if they stood alone."""
    line = line.format(services.address)
    assert shell.complete(line).startswith(line + "ho")
    assert same(shell.complete(line + "ho ../hom"), line + "ho ../home/")
    inner = line[:-2] + "kaiso ls --js"
    assert same(shell.complete(inner), inner + "on")


# ---- names that would be obeyed

def complete_and_run(shell, services, start, name):
    line = f"kaiso connect {services.address} {start}"
    after = shell.complete(line)
    assert after != line, f"{name} is not completed"
    run(shell, services, after, name)


def test_hostile_names(shell, services):
    """Completed from the first letter."""
    for name in HOSTILE:
        complete_and_run(shell, services, name[0], name)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_hostile_names_in_quotes(shell, kind, services, quote):
    """Within a quote that is open."""
    for name in HOSTILE:
        if any(letter in name for letter in "'\"`\\$!"):
            if "!" in name and kind == "bash" and quote == '"':
                continue  # whatever stands before it, bash takes it for an event of the history there
            complete_and_run(shell, services, quote + name[0], name)


def test_hostile_router(completions):
    """Bytes that no kaiso would list come as the text that `kaiso ls` makes of them."""
    names = ["one\x1b[2J", "two\x07", "three", "\x1b]0;title\x07"]

    def answer(stream):
        stream.receive_line()
        stream.send("".join(f"{name}\r\n" for name in [*names, ""]).encode())

    service = Service(bind_tcp(), answer)
    try:
        shown = [name.replace("\x1b", "\\x1b").replace("\x07", "\\x07") for name in names]
        assert completions(f"kaiso connect {service.address} ") == sorted(shown)
    finally:
        service.close()


def quiet(shell, line):
    """TAB changes nothing, and nothing is said."""
    shell.read_line()
    shell.output = b""
    after = shell.complete(line, attempts=1)
    assert b"kaiso ls" not in shell.output and b"kaiso:" not in shell.output, shell.output
    return after.rstrip(" ")


def test_no_router(shell):
    """Nobody there, no such host, no address at all."""
    for address in ("127.0.0.1:1", "[::1]:1", "no-such-host.invalid", "a:b:c", "$(touch made)", "--x", "'",
                    "unix:/none"):
        line = f"kaiso connect {address} zz"
        assert quiet(shell, line) == line


def test_router_that_never_answers(shell):
    """It is given up after a second; the shell goes on."""
    service = Service(bind_tcp(), lambda stream: stream.receive_all())
    try:
        line = f"kaiso connect {service.address} zz"
        assert quiet(shell, line) == line
    finally:
        service.close()


def failing_kaiso(directory):
    """A directory with one that says nothing."""
    directory.mkdir()
    program = directory / "kaiso"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return directory


@pytest.mark.parametrize("is_there", [False, True])
def test_program_that_says_nothing(new_shell, tmp_path, is_there):
    """It is not installed, or fails."""
    shell = new_shell(path=[failing_kaiso(tmp_path / "failing")] if is_there else [])
    for line in ("kaiso zz", "kaiso connect --zz", "kaiso connect zz", "kaiso nothing --zz"):
        assert quiet(shell, line) == line


def test_program_of_the_line(new_shell, tmp_path, services):
    """A kaiso that the line names by its path is the one that is asked."""
    shell = new_shell(path=[failing_kaiso(tmp_path / "failing")])
    os.symlink(KAISO, tmp_path / "home/kaiso")
    for program in ("../home/kaiso", str(tmp_path / "home/kaiso"), "~/kaiso"):
        line = f"{program} connect {services.address} git/f"
        assert same(shell.complete(line), line + "orge")


def test_installed(share):
    """Where the shells look, and packages too."""
    for name in ("kaiso", "kaiso-expose", "kaiso-inject", "kaiso-passfd"):
        assert (share / "bash-completion/completions" / name).is_file()
        assert (share / "fish/vendor_completions.d" / f"{name}.fish").is_file()
    assert (share / "zsh/site-functions/_kaiso").is_file()
