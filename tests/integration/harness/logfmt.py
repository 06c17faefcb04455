"""Reading a log: logfmt or JSON lines from a pipe, parsed as they come."""

import json
import os
import re
import threading

from .wait import DEADLINE, wait_until

_PAIR = re.compile(rb'([a-z][a-z0-9_-]*)=("(?:[^"\\]|\\.)*"|[^ "]*)')
_LINE = re.compile(rb'(?:<\d>)?(?:%s)(?: %s)*' % (_PAIR.pattern, _PAIR.pattern))
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b'"': b'"', b"\\": b"\\"}


def _unescape(match):
    escape = match.group(1)
    if escape.startswith(b"x"):
        return bytes([int(escape[1:], 16)])
    return _ESCAPES.get(escape, match.group(0))


class LogLine:
    """One event. line["key"] is its (last) value; all("listen") every value of a repeated key."""

    def __init__(self, pairs, raw):
        self.pairs = pairs
        self.raw = raw

    def __getitem__(self, key):
        return dict(self.pairs)[key]

    def get(self, key, otherwise=None):
        return dict(self.pairs).get(key, otherwise)

    def all(self, key):
        return [value for name, value in self.pairs if name == key]

    def __repr__(self):
        return self.raw.decode("utf-8", "backslashreplace")


def parse_line(raw):
    """A LogLine, or None when the bytes are no line of a log."""
    if raw.startswith(b"{"):
        try:
            pairs = json.loads(raw, object_pairs_hook=list)
        except ValueError:
            return None
        return LogLine([(key, value if isinstance(value, (str, list)) else str(value)) for key, value in pairs], raw)
    if not _LINE.fullmatch(raw):
        return None
    pairs = []
    for key, value in _PAIR.findall(raw):
        if value.startswith(b'"'):
            value = _ESCAPE.sub(_unescape, value[1:-1])
        pairs.append((key.decode(), value.decode("utf-8", "surrogateescape")))
    return LogLine(pairs, raw)


class Log:
    """Owns the reading end of a process's standard error; a thread reads it to the end."""

    def __init__(self, fd):
        self.lines = []  # parsed
        self.raw = []  # all, in order
        self.odd = []  # not to be parsed: a usage text, a sanitizer's report, or a bug
        self._fd = fd
        self._may_read = threading.Event()
        self._may_read.set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        rest = b""
        while True:
            self._may_read.wait()
            chunk = os.read(self._fd, 65536)
            if not chunk:
                break
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole:
                self._add(raw)
        if rest:
            self._add(rest)
        os.close(self._fd)

    def _add(self, raw):
        line = parse_line(raw)
        self.raw.append(raw)
        if line is None:
            self.odd.append(raw)
        else:
            self.lines.append(line)

    def pause(self):
        """Stops reading (after at most one more chunk): the writer's pipe fills up."""
        self._may_read.clear()

    def resume(self):
        self._may_read.set()

    def join(self):
        self._may_read.set()
        self._thread.join(DEADLINE)
        return not self._thread.is_alive()

    def text(self):
        return b"\n".join(self.raw).decode("utf-8", "backslashreplace")

    def find(self, **fields):
        """All lines so far whose fields have these values (a value may be a function that judges one)."""

        def is_match(line):
            for key, wanted in fields.items():
                value = line.get(key)
                if value is None or not (wanted(value) if callable(wanted) else value == str(wanted)):
                    return False
            return True

        return [line for line in list(self.lines) if is_match(line)]

    def wait(self, count=1, **fields):
        """Waits for that many such lines; returns the first of them (count 1) or all."""

        def enough():
            is_over = not self._thread.is_alive()
            lines = self.find(**fields)
            assert lines or not is_over, f"the log ended without {fields}:\n{self.text()}"
            return lines if len(lines) >= count else None

        found = wait_until(
            enough,
            lambda: f"{count} log line(s) with {fields}; the log is:\n{self.text()}",
        )
        return found[0] if count == 1 else found
