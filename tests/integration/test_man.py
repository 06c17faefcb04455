"""The man pages: in order, complete, and of one mind with --help, kaiso.h and what the program does."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from harness.namespaces import unshared
from harness.router import KAISO, REPOSITORY, clean_environment, run_kaiso
from harness.wait import DEADLINE, wait_until

BUILD = Path(KAISO).parent
PAGES = sorted(path.name for path in (REPOSITORY / "man").glob("*.[0-9]"))
SECTIONS = ["NAME", "DESCRIPTION", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO", "SECURITY CONSIDERATIONS"]


def source(page):
    return (REPOSITORY / "man" / page).read_text(encoding="utf-8")


def rendered(page):
    """As man(1) shows it, with each paragraph on one line."""
    result = subprocess.run(["mandoc", "-Tutf8", "-Owidth=1000", REPOSITORY / "man" / page], check=True,
                            capture_output=True, text=True)
    return re.sub(r".\x08", "", result.stdout)  # bold and underlined


def words(text):
    return " ".join(text.split())


# ---- each page

@pytest.mark.parametrize("page", PAGES)
def test_lint(page):
    """mandoc finds nothing. Whether others' pages are installed here is no matter."""
    result = subprocess.run(["mandoc", "-Tlint", REPOSITORY / "man" / page], check=False,
                            capture_output=True, text=True)
    remarks = [line for line in result.stdout.splitlines() if "referenced manual not found" not in line]
    assert not remarks, "\n".join(remarks)


@pytest.mark.parametrize("page", PAGES)
def test_sections(page):
    """Those that every page has to have, with something in them."""
    sections = dict(re.findall(r"^\.Sh (.+)\n((?:(?!\.Sh ).*\n)+)", source(page), re.MULTILINE))
    missing = [section for section in SECTIONS if section not in sections]
    assert not missing, f"man/{page} lacks {', '.join(missing)}"
    assert re.search(r"^\.Dt " + page.replace(".", " ").upper().replace("-", r"\-") + "$", source(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_cross_references(page):
    """Each page of ours that is referred to exists, and none refers to itself."""
    found = re.findall(r"^\.Xr ((?:lib)?kaiso\S*) (\d)", source(page), re.MULTILINE)
    referred = {f"{name}.{section}" for name, section in found}
    assert referred <= set(PAGES), f"man/{page} refers to {sorted(referred - set(PAGES))}"
    assert page not in referred


# ---- the program's words

def help_of(*command):
    return run_kaiso(*command, "--help").stdout.decode()


def commands():
    listed = re.search(r"^Commands:\n((?: .*\n)+)", help_of(), re.MULTILINE)[1]
    return re.findall(r"^  ([a-z][a-z-]*) ", listed, re.MULTILINE)


def page_of(command):
    return "kaiso.8" if command == "serve" else f"kaiso-{command}.1"


def options_of_help(*command):
    """{"-l, --long ARG": default or None}, with ARG in small letters."""
    found = {}
    option = r"^ +((?:-\w, )?--[a-z][a-z-]*)(?: ([A-Z[]\S*))?(?= |$)(.*(?:\n {8,}.*)*)"
    for names, argument, text in re.findall(option, help_of(*command), re.MULTILINE):
        text = words(text)
        default = re.search(r"\(default: ([^;)]+)", text) or re.search(r"([\w-]+) \(default\)", text)
        found[f"{names} {argument.lower()}".strip()] = default[1] if default else None
    return found


def options_of_page(page):
    """The same of the lists of a page."""
    found = {}
    for title, text in re.findall(r"^ {5}(-.*)\n((?: {11,}.*\n|\n)*)", rendered(page), re.MULTILINE):
        title, _, beside = title.partition("  ")  # where there is room for text beside it
        default = re.search(r"The default is (.+?)(?:;|\.(?:\s|$))", words(f"{beside} {text}"))
        found[title] = default[1] if default else None
    return found


def test_every_command_has_a_page():
    missing = [command for command in commands() if page_of(command) not in PAGES]
    pages = ", ".join(f"man/{page_of(command)}" for command in missing)
    assert not missing, (f"no man page for `kaiso {', '.join(missing)}`: write {pages}, and name it in man/meson.build"
                         " and in man/kaiso.1")


def test_overview_names_every_command():
    """With its page; and no other."""
    listed = re.findall(r"^\.It Nm kaiso (\S+)$", source("kaiso.1"), re.MULTILINE)
    assert sorted(listed) == sorted(commands()), "the list of commands in man/kaiso.1 is not that of `kaiso --help`"
    for command in listed:
        name, section = page_of(command).rsplit(".", 1)
        assert f".Xr {name} {section}" in source("kaiso.1"), f"man/kaiso.1 does not refer to {name}({section})"


@pytest.mark.parametrize("command", commands())
def test_options(command):
    """In the page and in --help: the same ones, with the same arguments and defaults."""
    page = page_of(command)
    assert page in PAGES, f"`kaiso {command}` has no man page: man/{page}"
    told, written = options_of_help(command), options_of_page(page)
    assert told, f"`kaiso {command} --help` tells no option"
    for option in sorted(set(told) - set(written)):
        pytest.fail(f"man/{page} lacks the option {option} of `kaiso {command} --help`")
    for option in sorted(set(written) - set(told)):
        pytest.fail(f"man/{page} has an option that `kaiso {command} --help` does not: {option}")
    for option, default in told.items():
        assert written[option] == default, f"man/{page}: the default of {option} is not that of --help"


def test_options_of_the_overview():
    assert set(options_of_page("kaiso.1")) == {"--help", "--version"}


@pytest.mark.parametrize("command", commands())
def test_exit_statuses(command):
    """Those that --help tells are in the page."""
    page = page_of(command)
    assert page in PAGES, f"`kaiso {command}` has no man page: man/{page}"
    told = re.search(r"Exit status: (.*?)(?:\n\n|\Z)", help_of(command), re.DOTALL)[1]
    written = re.search(r"^EXIT STATUS\n((?: .*\n|\n)+)", rendered(page), re.MULTILINE)[1]
    for status in set(re.findall(r"(?<![\w.])(\d+)(?= )", told)):
        assert re.search(rf"^ +{status} ", written, re.MULTILINE), f"man/{page} lacks the exit status {status}"


@pytest.mark.parametrize("command", commands())
def test_variables(command):
    """$KAISO and the like stand in the page of each command whose --help tells of them."""
    page = page_of(command)
    assert page in PAGES, f"`kaiso {command}` has no man page: man/{page}"
    for name in set(re.findall(r"\$(KAISO\w*)", help_of(command))):
        assert f".It Ev {name}\n" in source(page), f"man/{page} lacks ${name}"


def test_reasons():
    """Those of the log, each explained once."""
    named = re.findall(r'^\t\treturn "([a-z-]+)";$', (REPOSITORY / "src/router/reason.c").read_text(), re.MULTILINE)
    written = re.search(r"^Reasons are\n(.*?)^\.El$", source("kaiso.8"), re.MULTILINE | re.DOTALL)[1]
    titles = " ".join(re.findall(r"^\.It Li (.*)$", written, re.MULTILINE)).replace(",", " ").split()
    assert sorted(titles) == sorted(named)


# ---- installing

def installed():
    """{name: directory below the prefix} of what `make install` brings."""
    told = subprocess.run(["meson", "introspect", "--installed", BUILD], capture_output=True, check=True).stdout
    return {Path(target).name: Path(target).parent for target in json.loads(told).values()}


def test_pages_are_installed():
    plan = installed()
    for page in PAGES:
        assert page in plan, f"man/{page} is not installed: name it in man/meson.build"
        assert plan[page].parts[-2:] == ("man", f"man{page[-1]}")


def links():
    """{name: page} of the other names in man/meson.build."""
    build = (REPOSITORY / "man/meson.build").read_text()
    return dict(re.findall(r"^  '([\w.-]+)': '([\w.-]+)',$", build, re.MULTILINE))


def test_other_names(tmp_path):
    """`man kaiso-serve` and `man kaiso_accept` find something."""
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path, "--tags", "man"],
                   check=True, stdout=subprocess.DEVNULL)
    assert links()["kaiso-serve.8"] == "kaiso.8"
    for name, page in links().items():
        found = next(tmp_path.rglob(name))
        assert found.parent.name == f"man{page[-1]}" and found.resolve().name == page and found.exists()
        assert re.search(rf"^\.Nm {name[:-2]}(?: ,)?$", source(page), re.MULTILINE), f"{name} is no name in man/{page}"


# ---- the library

def test_every_function_is_described():
    """The symbols of the library, the prototypes of the header and of the page, its names and its links."""
    exported = set(re.findall(r"^\t\t(kaiso_\w+);", (REPOSITORY / "src/lib/libkaiso.map").read_text(), re.MULTILINE))
    page = source("libkaiso.3")
    synopsis, described = page.split(".Sh DESCRIPTION\n")
    functions = set(re.findall(r"^\.F[no] (kaiso_\w+)", synopsis, re.MULTILINE)) - {"kaiso_list_callback"}
    assert functions == exported
    assert exported <= set(re.findall(r"^\.Nm (kaiso_\w+)", synopsis, re.MULTILINE))
    assert {f"{name}.3" for name in exported} <= set(links())
    for name in exported:
        assert re.search(rf"^\.Fn {name}\b", described, re.MULTILINE), f"{name} is not described"


def flat(prototype):
    return re.sub(r"\s*([*(),;])\s*", r"\1", words(prototype))


def test_prototypes():
    """Those of the page are those of the header."""
    header = re.sub(r"/\*.*?\*/", "", (REPOSITORY / "src/lib/kaiso.h").read_text(), flags=re.DOTALL)
    synopsis = re.search(r"^SYNOPSIS\n(.*?)^DESCRIPTION$", rendered("libkaiso.3"), re.MULTILINE | re.DOTALL)[1]
    prototype = r"^ *((?:int|void|const char \*|typedef int)\s*kaiso_\w+\([^;]*\);)"
    declared, written = (
        {flat(one) for one in re.findall(prototype, text, re.MULTILINE)} for text in (header, synopsis)
    )
    assert len(declared) == 14 and written == declared


def test_errors():
    """Each error that the header names is in the page."""
    header = (REPOSITORY / "src/lib/kaiso.h").read_text()
    named = set(re.findall(r"-(E[A-Z]+)\b", header)) - {"EBADF"}
    titles = " ".join(re.findall(r"^\.It Bq Er (.*)$", source("libkaiso.3"), re.MULTILINE))
    assert named <= set(titles.replace(",", " ").split())


# ---- examples

def examples(page, mark):
    """The literal blocks below a comment `mark` or `mark: WORD`: [(WORD, text)]."""
    block = rf'^\.\\" {mark}(?:: (\w+))?\n\.Bd -literal[^\n]*\n(.*?)^\.Ed$'
    blocks = re.findall(block, source(page), re.MULTILINE | re.DOTALL)
    return [(word, text.replace(r"\e", "\\").replace(r"\&", "")) for word, text in blocks]


# Something to talk to, in a network of its own, where the ports that the pages name are free.
SERVICES = r"""
mkdir -p services/git
socat UNIX-LISTEN:services/echo,fork EXEC:cat &
python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &
echo 127.0.0.1:8000 | tee services/web >services/git/forge
kaiso serve 127.0.0.1:37812 127.0.0.2:37812 2>router.log &
until grep -qs ready router.log && curl -s -o /dev/null http://127.0.0.1:8000/; do sleep 0.1; done
"""


class Script:
    """Runs in a network and an empty directory of its own; close() ends whatever it has started."""

    def __init__(self, directory, text):
        self.output_path = directory / "output"
        script = directory / "script"
        script.write_text(f"ip link set lo up\nmkdir work\ncd work\n{text}")
        with open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(
                [*unshared("net"), "bash", script], cwd=directory, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=clean_environment(PATH=f"{BUILD}:{os.environ['PATH']}", LC_ALL="C.UTF-8",
                                      LD_LIBRARY_PATH=BUILD / "src/lib"),
            )

    def output(self):
        """So far, without what nobody sees at the end of lines."""
        return re.sub(r"[ \t\r]+$", "", self.output_path.read_text(errors="replace"), flags=re.MULTILINE).strip("\n")

    def is_done(self):
        return self.process.poll() is not None

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def expect(directory, script, expected):
    script = Script(directory, script)
    try:
        wait_until(script.is_done, lambda: f"the script to end:\n{script.output()}", timeout=2 * DEADLINE)
        # What runs in the background may have a word to say still.
        wait_until(lambda: script.output() == expected,
                   lambda: f"this output:\n{expected}\nand not:\n{script.output()}")
    finally:
        script.close()


MARK = "(a command)"


def transcript(blocks):
    """The script of its commands, each behind a mark that it prints, and what is to come out."""
    script, expected = [], []
    for _, block in blocks:
        for passage in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = passage.removesuffix("\n").split("\n")
            command = lines.pop(0)
            while command.endswith("\\") or command.count("'") % 2 == 1:  # it goes on
                command += "\n" + lines.pop(0)
            script += [f"echo '{MARK}'", command]
            expected += [MARK, *lines]
    text = "\n".join(expected)
    return "\n".join(script) + "\n", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip("\n")


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page, "run")])
def test_examples(page, tmp_path):
    """What stands behind `$ ` is run, and what comes out is what the page says."""
    blocks = examples(page, "run")
    script, expected = transcript(blocks)
    needs_services = any(word == "services" for word, _ in blocks)
    expect(tmp_path, (SERVICES if needs_services else "") + script, expected)


def test_examples_of_the_library(tmp_path):
    """They compile, with every warning, and do what the page says."""
    for name, text in examples("libkaiso.3", "compile"):
        (tmp_path / f"{name}.c").write_text(text)
        subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", REPOSITORY / "src/lib", "-o",
                        tmp_path / name, tmp_path / f"{name}.c", "-L", BUILD / "src/lib", "-lkaiso"], check=True)
    expect(tmp_path, SERVICES + """
../server &
echo .greeter passfd >services/greeter
../client
until test -S services/.greeter; do sleep 0.1; done
../client greeter
../client nothing
""", "echo\ngit/forge\ngreeter\nweb\ngood day\nclient: no such service")


def test_example_of_a_receiver(tmp_path):
    """The one in Python, of the protocol's page."""
    (_, text), = examples("kaiso-protocol.7", "python")
    (tmp_path / "receiver.py").write_text(text)
    expect(tmp_path, SERVICES + """
python3 ../receiver.py &
echo .own passfd >services/own
until kaiso connect own </dev/null 2>/dev/null; do sleep 0.1; done
""", "hello")
