"""doc/*.md: every command in them is run, and says what the page says.

A block `console` is a transcript: what stands behind `$ ` (or `NAME$ `, on that machine) is run in one shell of the
machine, from the top of the page to its end, and the lines below it are what comes out. Every other block is a file: the
paragraph before it ends with its path and a colon, and it is
written there (on the NAME, when it says so). The machines are those of
harness/machines.py: a network and a file system of their own, with kaiso installed and running, so that the text's own
ports and paths are the ones used.
"""

import re
from pathlib import Path

import pytest

from harness.machines import ADDRESSES, Machines
from harness.router import REPOSITORY
from harness.wait import Overdue, wait_until

DOC = REPOSITORY / "doc"
UNTESTED = {"architecture.md", "performance.md", "README.md"}  # no transcripts: test_pages_without_transcripts
PAGES = sorted(path.name for path in DOC.glob("*.md") if path.name not in UNTESTED)

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
    (r"\d+ of \d+ descriptors, \d+\.\d MiB, \d\.\d s", "(a few) descriptors"),
    (r"(?<=user `)(root|you)(?=')", "(reader)"),
    (r"[ \t\r]+$", ""),
)]

# Programs that look, and may have to look again: the log comes when it comes.
LOOKS = re.compile(r"\b(journalctl|kaiso (status|top)|tail|grep|cat|fail2ban-regex|redis-cli|systemctl is-active)\b")

# ---- what is not run as it stands, and what is run in its place

IN_PLACE_OF = {
    # There is no login to outlive: that loginctl has the word.
    "loginctl enable-linger": "loginctl --help | grep -q ' enable-linger '",
    # Debian's unit loads this file, and nothing else.
    "sudo systemctl enable --now nftables": "grep -q 'ExecStart=.*nft -f /etc/nftables.conf$'"
                                            " /lib/systemd/system/nftables.service && nft -f /etc/nftables.conf",
    # The daemon would ban: that it takes the configuration, jail included.
    "sudo systemctl restart fail2ban": "fail2ban-client -d 2>/dev/null | grep -q \"'add', 'kaiso', 'systemd'\"",
}


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


def steps(page):
    """The commands and the files of a page: Command, or (machine, path, text)."""
    text = (DOC / page).read_text(encoding="utf-8")
    found = []
    for block in BLOCK.finditer(text):
        indent, kind, content = block.groups()
        content = re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)
        line = text[:block.start()].count("\n") + 2
        if kind == "console":
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
        command = lines.pop(0)[prompt.end():]
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
        text = IN_PLACE_OF.get(command.text, command.text)
        told = same(machine.run(text))
        if not matches(expected, told) and LOOKS.search(text):
            said = [told]

            def looks_right():
                said[0] = same(machine.run(text))
                return matches(expected, said[0])
            try:
                wait_until(looks_right, "", timeout=3, interval=0.05)
            except Overdue:
                pass
            told = said[0]
        assert matches(expected, told), \
            f"doc/{self.page}:{command.line}: {command.text}\n--- the page:\n" + "\n".join(expected) + \
            "\n--- what came out:\n" + "\n".join(told)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path):
    found = steps(page)
    machines = Machines(tmp_path, {step.machine for step in found if isinstance(step, Command)})
    try:
        player = Player(page, machines)
        for step in found:
            if isinstance(step, Command):
                player.play(step)
            else:
                player.write(*step)
    finally:
        machines.close()


def test_every_reason_is_explained():
    """In the table at the end of the troubles, and no other."""
    named = re.findall(r'^\t\treturn "([a-z-]+)";$', (REPOSITORY / "src/router/reason.c").read_text(), re.MULTILINE)
    table = (DOC / "troubleshooting.md").read_text().split("\n## Reasons\n")[1]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == named
