"""The systemd units as the build made them, and a service manager played by the test."""

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

from .router import KAISO
from .wait import DEADLINE

DIRECTORY = Path(KAISO).parent / "systemd"
SOURCES = Path(__file__).resolve().parents[3] / "systemd"


def unit_path(name):
    """Where a unit is; name may begin with user/."""
    built = DIRECTORY / name
    return built if built.exists() else SOURCES / name


class Unit:
    """A unit's settings: all values of a key, in order."""

    def __init__(self, name):
        self.path = unit_path(name)
        self.settings = []
        for line in self.path.read_text().splitlines():
            if re.match(r"[A-Za-z]+=", line):
                self.settings.append(tuple(line.split("=", 1)))

    def all(self, key):
        return [value for name, value in self.settings if name == key]

    def get(self, key):
        return self.all(key)[-1]

    def words(self, key, **variables):
        """The words of a command line, as systemd.service(5) has it: ${NAME} is one word, $NAME any number of them.
        The first is the path of the program; the one under test stands for kaiso."""
        words = []
        for word in shlex.split(self.get(key)):
            match = re.fullmatch(r"\$(\w+)", word)
            if match:
                words += variables[match.group(1)].split()
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda name: variables[name.group(1)], word))
        if words[0].endswith("/kaiso"):
            words[0] = KAISO
        return words


def _syscall_sets():
    sets, name = {}, None
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True, timeout=DEADLINE,
    ).stdout
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            sets[name] = set()
        elif name and line.startswith("    ") and not line.strip().startswith("#"):
            sets[name].add(line.strip())
    return sets


def permitted_calls(unit):
    """The system calls that SystemCallFilter= of a unit permits, by name."""
    sets = _syscall_sets()

    def calls_of(words):
        calls = set()
        for word in words:
            calls |= calls_of(sets[word]) if word.startswith("@") else {word}
        return calls

    permitted = set(sets["@default"])
    for value in unit.all("SystemCallFilter"):
        if value.startswith("~"):
            permitted -= calls_of(value[1:].split())
        else:
            permitted |= calls_of(value.split())
    return permitted


class Manager:
    """The socket that $NOTIFY_SOCKET names."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(DEADLINE)

    def receive(self):
        """The next message: a dict."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def expect(self, key, others=("WATCHDOG",)):
        """The next message but for those that only have keys of others; it must have the key."""
        while True:
            message = self.receive()
            if not set(message) <= set(others) or key in message:
                assert key in message, message
                return message

    def drain(self):
        """What came so far is forgotten; how many messages."""
        self._socket.setblocking(False)
        count = 0
        try:
            while True:
                self._socket.recv(4096)
                count += 1
        except BlockingIOError:
            return count
        finally:
            self._socket.settimeout(DEADLINE)

    def is_silent(self, seconds):
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
            return False
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(DEADLINE)

    def close(self):
        self._socket.close()
        os.unlink(self.path)
