"""A terminal of a fixed size with a program in it, whose screen can be read: tmux, with a server of its own."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from .router import clean_environment
from .wait import DEADLINE, wait_until


# What a shell does with a foreground job; Enter brings a stopped one back.
RUNNER = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
before = termios.tcgetattr(0)
print("before", flush=True)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(pid))
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    print("stopped", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, pid)
    os.kill(pid, signal.SIGCONT)
print("ended", os.waitstatus_to_exitcode(status))
print("restored" if termios.tcgetattr(0) == before else "changed", flush=True)
signal.pause()
"""


class Screen:
    """Runs the words as a command. env: variables for it, among them TERM.

    When the command ends, "ended STATUS" appears on the screen, and "restored" if the terminal is as it was before.
    """

    def __init__(self, *words, columns=80, rows=24, **env):
        self.directory = Path(tempfile.mkdtemp(prefix="screen-"))
        variables = [f"{name}={value}" for name, value in {"TERM": "screen-256color", "LC_ALL": "C.UTF-8", **env}.items()]
        command = [sys.executable, "-ISc", RUNNER, self.directory / "pid", "env", *variables, *words]
        try:
            self.tmux("-f", os.devnull, "new-session", "-d", "-x", columns, "-y", rows, shlex.join(map(str, command)))
        except BaseException:
            self.close()
            raise

    def tmux(self, *words):
        result = subprocess.run(
            ["tmux", "-S", str(self.directory / "socket"), *map(str, words)], stdin=subprocess.DEVNULL, check=True,
            capture_output=True, timeout=DEADLINE, env=clean_environment(LC_ALL="C.UTF-8", TERM="xterm", SHELL="/bin/sh"),
        )
        return result.stdout.decode(errors="replace")

    @property
    def pid(self):
        """The program's."""
        return int((self.directory / "pid").read_text())

    def text(self):
        return self.tmux("capture-pane", "-p")

    def styled(self):
        """With the escape sequences of styles and colours."""
        return self.tmux("capture-pane", "-p", "-e")

    def press(self, *keys):
        """tmux's names of keys, or texts."""
        self.tmux("send-keys", *keys)

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", columns, "-y", rows)

    def wait(self, *parts, without=()):
        """The screen's text, once it holds all these parts and none of the others."""
        seen = ""

        def is_there():
            nonlocal seen
            seen = self.text()
            return all(part in seen for part in parts) and not any(part in seen for part in without)

        wait_until(is_there, lambda: f"{parts} without {without} on:\n{seen}", interval=0.02)
        return seen

    def close(self):
        try:
            self.tmux("kill-server")
        except (subprocess.SubprocessError, OSError):
            pass  # it has ended with its last command
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)
