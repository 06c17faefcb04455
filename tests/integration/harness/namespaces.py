"""Words before a program that give it namespaces of its own, or take from it what root may do.

Root needs no user namespace for it, and does without: there is none to be had in a chroot, nor where an
administrator forbids them. Everybody else becomes root of one, and so does root in a container that has too
few capabilities. Mount namespaces need a root directory that is a mount point, which that of a chroot seldom is.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .router import KAISO

OWN_USERS = ["--map-root-user"]


@functools.cache
def _way(kinds):
    """The options of unshare(1) by which namespaces of these kinds can be had here."""
    namespaces = [f"--{kind}" for kind in kinds]
    for options in ([namespaces] if os.geteuid() == 0 else []) + [OWN_USERS + namespaces]:
        if subprocess.run(["unshare", *options, "true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          check=False).returncode == 0:
            return options
    return None


def unshared(*kinds):
    """Before a program: new namespaces of these kinds, "net" or "mount", in which it is root."""
    options = _way(kinds)
    if options is None:
        pytest.skip(f"this system gives no new namespace ({', '.join(kinds)})")
    return ["unshare", *options]


def joined(pid, *kinds):
    """Before a program: the namespaces of the process that unshared() made for it."""
    users = ["--user", "--preserve-credentials"] if _way(kinds)[:1] == OWN_USERS else []
    return ["nsenter", f"--target={pid}", *users, *(f"--{kind}" for kind in kinds)]


def not_almighty():
    """Before a program: the same user with no capability, even when that is root."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


CAP_LEASE = 1 << 28


def can_lease():
    """Whether a program that the test starts can be given the right to ask who is writing any file that it reads."""
    with open("/proc/self/status", encoding="ascii") as file:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) & CAP_LEASE for line in file)


def with_leases_alone(*words):
    """Before a program: no capability but that to take leases, as kaiso.service gives it. words: more for setpriv(1)."""
    return ["setpriv", *words, "--bounding-set=-all,+lease", "--inh-caps=-all,+lease", "--ambient-caps=-all,+lease",
            "--no-new-privs"]


def public_kaiso(directory):
    """A copy of the program, and of what it preloads, where every user may run it: /root is closed to others."""
    for path in (Path(KAISO), Path(KAISO).with_name("libkaiso-preload.so")):
        shutil.copy(path, directory)
    os.chmod(directory, 0o755)
    return str(Path(directory, Path(KAISO).name))
