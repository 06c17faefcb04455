"""Running programs under `kaiso inject`, and building the small ones that the tests need."""

import os
import subprocess
from pathlib import Path

from .router import KAISO, clean_environment
from .wait import DEADLINE

MODES = ["seccomp", "preload"]
PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


def compile_c(directory, name, *flags, suffix=".c", output=None):
    """Builds tests/integration/programs/NAME.c once for a directory; returns its path."""
    path = Path(directory) / (output or name + "".join(flags).replace("/", "_"))
    if not path.exists():
        subprocess.run(["gcc", "-O1", "-D_GNU_SOURCE", "-o", path, PROGRAMS / (name + suffix), *flags, "-pthread"],
                       check=True)
    return str(path)


# A library that a test preloads into a kaiso that was built with the address sanitizer is no mistake.
os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0"]))


def inject_words(mode, address, service, *program):
    return [KAISO, "inject", "--mode", mode, address, service, "--", *map(str, program)]


def inject(mode, address, service, *program, stdin=b"", env=None, timeout=3 * DEADLINE, **how):
    """Runs the program to its end: CompletedProcess with bytes."""
    return subprocess.run(
        inject_words(mode, address, service, *program), input=stdin, capture_output=True, check=False,
        timeout=timeout, env={**clean_environment(), **(env or {})}, **how,
    )


def helpers():
    """The processes of every kaiso that wraps a program here: [(pid, parent)]."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/exe") == KAISO:
                with open(f"/proc/{name}/cmdline", "rb") as cmdline:
                    words = cmdline.read().split(b"\0")
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
                if b"inject" in words[:2]:
                    found.append((int(name), parent))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass  # ended meanwhile
    return found
