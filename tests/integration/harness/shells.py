"""Shells at a terminal, as a person has them: keys go in, and what stands on the command line then is read back."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

from .router import KAISO, clean_environment
from .wait import DEADLINE, Overdue

# Each shell has two keys of ours: Ctrl-T writes the command line to $LINE, Ctrl-G puts all completions there are in
# place of the word. Prompts are gone, so that nothing of a line depends on them.
SETUP = {
    "bash": r"""
PS1='' PS2='' HISTFILE='' HISTSIZE=0
bind 'set enable-bracketed-paste off'
bind 'set bell-style none'
source /usr/share/bash-completion/bash_completion
bind -x '"\C-t": printf %s "$READLINE_LINE" >"$LINE.new"; mv "$LINE.new" "$LINE"'
bind '"\C-g": insert-completions'
bind 'set completion-query-items 0'
""",
    "zsh": r"""
PS1= PS2= RPS1= HISTSIZE=0
unsetopt prompt_sp beep
zle_bracketed_paste=()
fpath=("$SHARE/zsh/site-functions" $fpath)
autoload -Uz compinit && compinit -u -d "$ZDOTDIR/../zcompdump"
write-line() { print -rn -- "$BUFFER" >"$LINE.new"; mv "$LINE.new" "$LINE" }
zle -N write-line
bindkey -e
bindkey '^T' write-line
zle -C insert-all complete-word _generic
zstyle ':completion:insert-all:*' completer _all_matches _complete
zstyle ':completion:insert-all:*' insert yes
bindkey '^G' insert-all
""",
    "fish": r"""
set -g fish_greeting
function fish_prompt; end
function fish_right_prompt; end
set -g fish_history ''
set -p fish_complete_path $SHARE/fish/vendor_completions.d
function write_line
    commandline | string collect >$LINE.new # without the line end
    mv $LINE.new $LINE
end
bind \ct write_line
""",
}


class Shell:
    """One that was just started, in an empty directory of its own. share: where completions were installed.

    path: directories of $PATH before the usual ones.
    """

    def __init__(self, kind, directory, share, path=(os.path.dirname(KAISO),), **env):
        self.kind = kind
        self.directory = directory
        self.line_path = directory / "line"
        self.output = b""
        setup = directory / "setup"
        setup.write_text(SETUP[kind])
        command = {
            "bash": ["bash", "--noprofile", "--rcfile", str(setup), "-i"],
            "zsh": ["zsh", "-i"],
            "fish": ["fish", "--no-config", "--init-command", f"source {setup}", "-i"],
        }[kind]
        if kind == "zsh":
            setup.rename(directory / ".zshrc")
        home = directory / "home"
        home.mkdir()
        work = directory / "work"
        work.mkdir()
        self.environment = clean_environment(
            PATH=":".join([*map(str, path), os.environ["PATH"]]), HOME=home, ZDOTDIR=directory, LINE=self.line_path,
            SHARE=share, XDG_DATA_DIRS=f"{share}:/usr/share", XDG_DATA_HOME=home, XDG_CONFIG_HOME=home,
            LC_ALL="C.UTF-8", TERM="xterm" if kind == "fish" else "dumb", **env,
        )
        main, terminal = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=work, start_new_session=True,
            preexec_fn=_take_terminal, env=self.environment,
        )
        os.close(terminal)
        self.terminal = main
        self.read_line()  # it is ready when it answers

    @property
    def work(self):
        return self.directory / "work"

    def press(self, keys):
        os.write(self.terminal, keys.encode() if isinstance(keys, str) else keys)

    def _drain(self, seconds):
        if select.select([self.terminal], [], [], seconds)[0]:
            try:
                self.output += os.read(self.terminal, 65536)
            except OSError:
                pass  # it has ended
        assert self.process.poll() is None, f"{self.kind} ended:\n{self.output.decode(errors='replace')}"

    def read_line(self):
        """What stands on the command line now. Keys are pressed in turn, so all before have had their effect."""
        end = time.monotonic() + DEADLINE
        self.line_path.unlink(missing_ok=True)
        self.press("\x14")
        while not self.line_path.exists():
            self._drain(0.01)
            if time.monotonic() > end:
                raise Overdue(f"{self.kind} does not answer:\n{self.output.decode(errors='replace')}")
        return self.line_path.read_text(errors="surrogateescape")

    def complete(self, line, key="\t", attempts=4):
        """Types the line, presses TAB, and returns what stands there then.

        On a busy machine the second that a router has for its answer is short: so it is tried again when nothing came.
        """
        after = line
        while after == line and attempts > 0:
            self.press("\x15" + line + key)
            after = self.read_line()
            attempts -= 1
        return after

    def wait_for(self, condition, what):
        end = time.monotonic() + DEADLINE
        while not condition():
            self._drain(0.01)
            if time.monotonic() > end:
                raise Overdue(f"{self.kind}: waited for {what}:\n{self.output.decode(errors='replace')}")

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.terminal)


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
