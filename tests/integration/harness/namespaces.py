"""Words before a program that give it namespaces of its own, or take from it what root may do.

Root needs no user namespace for it, and does without: there is none to be had in a chroot, nor where an
administrator forbids them. Everybody else becomes root of one.
"""

import functools
import os
import subprocess


@functools.cache
def _is_mighty():
    """Whether we are a root who may make namespaces; in a container it may be one who may not."""
    return os.geteuid() == 0 and subprocess.run(
        ["unshare", "--net", "--mount", "true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode == 0


def unshared(*kinds):
    """Before a program: new namespaces of these kinds, "net" or "mount", in which it is root."""
    own = [] if _is_mighty() else ["--map-root-user"]
    return ["unshare", *own, *(f"--{kind}" for kind in kinds)]


def joined(pid, *kinds):
    """Before a program: the namespaces of the process that unshared() made for it."""
    own = [] if _is_mighty() else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *own, *(f"--{kind}" for kind in kinds)]


def not_almighty():
    """Before a program: the same user, with no capability, even when that is root."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
