"""What the kernel tells about a running process: descriptors, memory, processor time."""

import ctypes
import os
import re
import socket
import time
from collections import Counter

_SYS_PIDFD_GETFD = 438


def list_fds(pid):
    """{descriptor: what it leads to}, as /proc shows it."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def count_fds(pid):
    """How many descriptors of each kind: socket, pipe, event (epoll, eventfd and the like), file."""
    kinds = Counter(socket=0, pipe=0, event=0, file=0)
    for target in list_fds(pid).values():
        if target.startswith("socket:"):
            kinds["socket"] += 1
        elif target.startswith("pipe:"):
            kinds["pipe"] += 1
        elif target.startswith("anon_inode:"):
            kinds["event"] += 1
        else:
            kinds["file"] += 1
    return kinds


def rss_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * 1024


def cpu_seconds(pid):
    """Of all threads so far, to the nanosecond: (processor time, the same with what they waited for a processor)."""
    used, wanted = 0, 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as schedstat:
                running, waiting = (int(word) for word in schedstat.read().split()[:2])
        except (FileNotFoundError, ProcessLookupError):
            continue
        used += running
        wanted += running + waiting
    return used / 1e9, wanted / 1e9


def assert_quiet(pid, window=0.5):
    """The process has nothing to do and does nothing: it must not spin. The one place that lets time pass.

    Who spins wants all of the window; on a busy machine he does not get it, so what he waited for counts as well.
    """
    used_before, wanted_before = cpu_seconds(pid)
    time.sleep(window)
    used, wanted = cpu_seconds(pid)
    used, wanted = used - used_before, wanted - wanted_before
    assert used < window / 6 and wanted < window * 0.7, \
        f"it used {used:.3f} s and wanted {wanted:.3f} s of processor time in {window} s of silence: it spins"


def borrow_sockets(pid):
    """Duplicates of every socket of the process (pidfd_getfd(2)), to read their options. The caller closes them."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    borrowed = []
    try:
        for fd, target in list_fds(pid).items():
            if not target.startswith("socket:"):
                continue
            copy = libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            borrowed.append(socket.socket(fileno=copy))
    finally:
        os.close(pidfd)
    return borrowed
