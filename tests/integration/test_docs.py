"""doc/*.md and README.md: every command in them is run, and says what the page says.

A block `console` is a transcript: what stands behind `$ ` (or `NAME$ `, on that machine) is run in one shell of the
machine, from the top of the page to its end, and the lines below it are what comes out. Every other block is a file: the
paragraph before it ends with its path and a colon, and it is
written there (on the NAME, when it says so). The machines are those of
harness/machines.py: a network and a file system of their own, with kaiso installed and running, so that the text's own
ports and paths are the ones used.
"""

import re
import time
from pathlib import Path

import pytest

from harness.machines import ADDRESSES, Machines
from harness.router import REPOSITORY, run_kaiso
from harness.wait import wait_until

DOC = REPOSITORY / "doc"
UNTESTED = {"architecture.md", "performance.md", "README.md"}  # they have no transcripts: test_pages_without_any
PAGES = ["README.md", *sorted(path.name for path in DOC.glob("*.md") if path.name not in UNTESTED)]

# ---- what need not be the same: both the text and what came out are brought to one form

SAME = [(re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in (
    (r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ", "(time) "),  # the journal's
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "(time)"),
    (r"\b\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", "(time)"),
    (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "(time)"),
    (r"\bduration=\d+\.\d{3}\b", "duration=(time)"),
    (r"(?<=[\d\]]:)(?!37812|37813)(3[2-9]|[45]\d|6[0-5])\d{3}\b", "(port)"),  # those that the kernel chooses
    (r"\b([a-z-]+)\[\d+\](?=:)", r"\1[(process)]"),
    (r"\bprocess \d+", "process (process)"),
    (r"\b(nginx|Python|SimpleHTTP|kaiso|OpenSSH|libssh)([/ _])\d+(\.\d+)*(p\d+)?( Debian-\S+)?", r"\1\2(version)"),
    (r"^\d+-[0-9a-f]{5,8}(?= )", "(session)"),
    (r" +\d+s(?=  )", " (age)"),
    (r"of at most \d+", "of at most (many)"),
    (r"\d+ of \d+ descriptors, \d+\.\d MiB, \d\.\d s", "(a few) descriptors"),
    (r"(?<=user `)(root|you)(?=')", "(reader)"),
    (r"(?<=\S)(\t| {2,})(?=\S)", "  "),  # columns, which a terminal has aligned
    (r"[ \t\r]+$", ""),
)]

# Programs that look, and may have to look again: the log comes when it comes.
LOOKS = re.compile(r"\b(journalctl|kaiso (status|top)|tail|grep|cat|fail2ban-regex|redis-cli|systemctl is-active)\b")

# ---- what is not run as it stands: {page: {command: (what is run in its place, and why)}}

IN_PLACE_OF = {
    "home-server.md": {
        # There is no login to outlive: that loginctl has the word.
        "loginctl enable-linger": "loginctl --help | grep -q ' enable-linger '",
        # Debian's unit loads this file, and nothing else.
        "sudo systemctl enable --now nftables": "grep -q 'ExecStart=.*nft -f /etc/nftables.conf$'"
                                                " /lib/systemd/system/nftables.service && nft -f /etc/nftables.conf",
        # The daemon would ban: that it takes the configuration, jail included.
        "sudo systemctl restart fail2ban": "fail2ban-client -d 2>/dev/null | grep -q \"'add', 'kaiso', 'systemd'\"",
    },
    "many-machines.md": {
        # Debian's unit runs it with these files; the machine has none for it.
        "sudo systemctl restart dnsmasq": "dnsmasq -k --user=root --no-resolv --conf-dir=/etc/dnsmasq.d >/dev/null 2>&1 &",
        # The same; and where the disk of the host's own is not touched.
        "sudo systemctl restart etcd": "(set -a; . /etc/default/etcd; ETCD_DATA_DIR=/tmp/etcd exec etcd) >/dev/null 2>&1 &",
    },
    "README.md": {
        # In the foreground of another terminal; its port is that of the system's router.
        "kaiso serve 127.0.0.1:37812": "systemctl stop kaiso.socket kaiso; kaiso serve 127.0.0.1:37812 2>router.log &",
        # With a session that is there to be shown.
        "kaiso status --sessions": "sleep 1000 | kaiso connect echo >/dev/null 2>&1 & sleep 0.3; kaiso status --sessions",
        # From here on it is the system's router again; what adduser says is no matter.
        "sudo adduser $USER kaiso": "sudo adduser $USER kaiso >/dev/null; kaiso close $(kaiso status --sessions --json |"
                                    " jq -r '.sessions[].id'); kaiso drain --wait; systemctl start kaiso.socket kaiso",
        # An editor: doc/systemd.md has what is to be typed.
        "systemctl edit kaiso.socket": "systemctl cat kaiso.socket >/dev/null",
        # The file that the comment speaks of; doc/systemd.md has one.
        "systemctl enable --now kaiso-expose@web":
            "printf 'KAISO=127.0.0.1:37812\\nSERVICE=web\\nLISTEN=127.0.0.1:8081\\n' >/etc/kaiso/expose/web.conf;"
            " systemctl enable --now kaiso-expose@web",
        # A query without an answer to be shown.
        "journalctl -u kaiso -g 'reason=(not-found|denied|line-too-long|limit)'":
            "journalctl -u kaiso -g 'reason=(not-found|denied|line-too-long|limit)' >/dev/null",
    },
}

# Of these only the first words of the lines are compared: the numbers are those of another moment.
OUTLINES = {("README.md", "kaiso status --sessions")}

# Blocks of the README that no shell can run: `make run` and `make check` run this test; examples/server.c is compiled and
# run by test_libkaiso.py.
NOT_RUN = {"make run ", "#include <kaiso.h>"}


def same(text):
    for pattern, replacement in SAME:
        text = pattern.sub(replacement, text)
    return text.strip("\n").split("\n") if text.strip("\n") else []


def matches(expected, told):
    """Line by line; a line `...` stands for any number of lines."""
    if not expected:
        return not told
    if expected[0] == "...":
        return any(matches(expected[1:], told[number:]) for number in range(len(told) + 1))
    return bool(told) and expected[0] == told[0] and matches(expected[1:], told[1:])


# ---- pages

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(rf"^({'|'.join(ADDRESSES)})?\$ ", re.MULTILINE)


class Command:
    def __init__(self, machine, text, expected, line):
        self.machine, self.text, self.expected, self.line = machine, text, expected, line


class Excerpt:
    """Lines of the log."""

    def __init__(self, text):
        self.lines = same(text)


def place_of(page):
    return REPOSITORY / page if page == "README.md" else DOC / page


def steps(page):
    """The commands and the files of a page: Command, or (machine, path, text), or Excerpt."""
    text = place_of(page).read_text(encoding="utf-8")
    found = []
    for block in BLOCK.finditer(text):
        indent, kind, content = block.groups()
        content = re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)
        line = text[:block.start()].count("\n") + 2
        if page == "README.md" and content.startswith("level="):
            found.append(Excerpt(content))
        elif page == "README.md" and content.startswith(tuple(NOT_RUN)):
            pass
        elif kind == "console" or page == "README.md":
            found += commands(content, line)
        else:
            before = text[:block.start()].rstrip().split("\n")[-1]
            path = re.search(r"`([~/]\S*)`[^`]*:$", before)
            assert path, f"doc/{page}:{line}: the line before the block `{kind}` does not end with a path and a colon"
            place = re.search(rf"\bon the ({'|'.join(ADDRESSES)})\b", before)
            found.append((place[1] if place else "home", path[1], content))
    return found


def commands(block, line):
    found = []
    lines = block.removesuffix("\n").split("\n")
    while lines:
        prompt = PROMPT.match(lines[0])
        assert prompt, f"line {line} is below no command: {lines[0]}"
        begin = line
        command = re.sub(r" {2,}#.*$", "", lines.pop(0)[prompt.end():])
        line += 1
        while command.endswith(("\\", "|")) or command.count("'") % 2 == 1:  # it goes on
            command += "\n" + lines.pop(0)
            line += 1
        expected = []
        while lines and not PROMPT.match(lines[0]):
            expected.append(lines.pop(0))
            line += 1
        found.append(Command(prompt[1] or "home", command, expected, begin))
    return found


class Player:
    def __init__(self, page, machines):
        self.page, self.machines = page, machines

    def write(self, machine, path, text):
        path = path.replace("~", "/home/you")
        told = self.machines[machine].run(f"mkdir -p {Path(path).parent}; cat >{path} <<'(end)'\n{text}(end)")
        assert not told, told

    def play(self, command):
        machine = self.machines[command.machine]
        expected = same("\n".join(command.expected))
        text = IN_PLACE_OF.get(self.page, {}).get(command.text, command.text)
        if self.page == "README.md" and text.endswith(" &") and "2>" not in text:
            text = text.removesuffix("&") + ">/dev/null 2>&1 &"  # its words would be among those of others

        def ask():
            told = same(machine.run(text))
            if (self.page, command.text) in OUTLINES:
                told = [line for line in told if any(line.split()[:1] == one.split()[:1] for one in expected)]
                return [line.split()[:1] for line in told], [line.split()[:1] for line in expected]
            return told, expected

        told, wanted = ask()
        end = time.monotonic() + 3
        while not matches(wanted, told) and LOOKS.search(command.text) and time.monotonic() < end:
            time.sleep(0.05)
            told, wanted = ask()
        assert matches(wanted, told), \
            f"{self.page}:{command.line}: {command.text}\n--- the page:\n{wanted}\n--- what came out:\n{told}"

    def look_up(self, excerpt):
        """In the log that the tour's router writes."""
        def log():
            return self.machines["home"].run("sed 's/^time=[^ ]* //' router.log")

        for line in excerpt.lines:
            wait_until(lambda line=line: line in same(log()), lambda line=line: f"this line in the log: {line}\n{log()}")


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path):
    """From top to bottom."""
    found = steps(page)
    machines = Machines(tmp_path, {step.machine for step in found if isinstance(step, Command)})
    try:
        player = Player(page, machines)
        for step in found:
            if isinstance(step, Command):
                player.play(step)
            elif isinstance(step, Excerpt):
                player.look_up(step)
            else:
                player.write(*step)
    finally:
        machines.close()


def test_nothing_is_replaced_for_nothing():
    """Each command that is not run as it stands is in its page."""
    for page, replaced in IN_PLACE_OF.items():
        missing = set(replaced) - {step.text for step in steps(page) if isinstance(step, Command)}
        assert not missing, f"{page} has no {missing}"


@pytest.mark.parametrize("page", sorted(UNTESTED))
def test_pages_without_any(page):
    """No transcript escapes because its page is not played."""
    assert not re.search(r"^(\w+)?\$ ", (DOC / page).read_text(), re.MULTILINE)


def test_commands_in_prose():
    """What the pages call kaiso's commands and options is there."""
    for page in [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md", *DOC.glob("*.md")]:
        prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for words in re.findall(r"`kaiso ([a-z]+\b[^`]*)`", prose):
            command, *others = words.split()
            told = run_kaiso(command, "--help").stdout.decode()
            assert f"kaiso {command}" in told, f"{page.name}: `kaiso {words}`: there is no such command"
            others = [word.strip("[]") for word in others]
            own = others[:others.index("--")] if "--" in others else others
            for option in (word for word in own if word.startswith("-")):
                assert re.search(rf"{option}\b", told), f"{page.name}: `kaiso {words}`: there is no such option"


def test_links():
    """Between the pages, headings included, and every page is in the index."""
    pages = [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md", *DOC.glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, heading = link.partition("#")
            if path.startswith("http"):
                continue
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {link}"
            anchors = [re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                       for line in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)] if heading else []
            assert not heading or heading in anchors, f"{page.name}: {link}"
    index = (DOC / "README.md").read_text()
    missing = [page.name for page in DOC.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index]
    assert not missing, f"not in doc/README.md: {missing}"


def test_every_reason_is_explained():
    """In the table at the end of the troubles, and no other."""
    named = re.findall(r'^\t\treturn "([a-z-]+)";$', (REPOSITORY / "src/router/reason.c").read_text(), re.MULTILINE)
    table = (DOC / "troubleshooting.md").read_text().split("\n## Reasons\n")[1]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == named
