"""The memory that is shared with the interposer (interposer.c has the same layout), and what was recorded there."""

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import subprocess

OFF, RECORD, INJECT = 0, 1, 2
FOREVER = 0xFFFFFFFF

_NAMES_MAX = 128
_MODULES_MAX = 16
_PLACES_MAX = 8192
_FRAMES = 6
_EXEMPT_MAX = 8
_MAGIC = 0x6B66310A


class _Place(ctypes.Structure):
    _fields_ = [("hash", ctypes.c_uint64), ("function", ctypes.c_uint32), ("count", ctypes.c_uint32),
                ("frames", ctypes.c_uint64 * _FRAMES)]


class _Control(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_uint32), ("mode", ctypes.c_uint32), ("function", ctypes.c_uint32), ("error", ctypes.c_int32),
        ("place", ctypes.c_uint64), ("first", ctypes.c_uint32), ("last", ctypes.c_uint32),
        ("is_short", ctypes.c_uint32), ("owner", ctypes.c_uint32), ("hits", ctypes.c_uint32),
        ("injected", ctypes.c_uint32), ("calls", ctypes.c_uint64), ("blocks", ctypes.c_int64),
        ("bytes", ctypes.c_int64), ("exempt", ctypes.c_int32 * _EXEMPT_MAX), ("places_full", ctypes.c_uint32),
        ("starts", ctypes.c_uint32), ("names", (ctypes.c_char * 24) * _NAMES_MAX),
        ("modules", (ctypes.c_char * 40) * _MODULES_MAX), ("places", _Place * _PLACES_MAX),
    ]


class Place:
    """A function and the way to it. count: how often it was passed while it was recorded."""

    def __init__(self, record, names, modules):
        self.hash = record.hash
        self.number = record.function
        self.function = names[record.function].value.decode()
        self.count = record.count
        self.frames = [(modules[frame >> 48].value.decode(), frame & (1 << 48) - 1) for frame in record.frames if frame]

    def text(self, program):
        return f"{self.function}() in {' < '.join(_frame_text(program, *frame) for frame in self.frames)}"


@functools.cache
def _frame_text(program, module, offset):
    if module:
        return f"{module}+{offset:#x}"
    found = subprocess.run(["addr2line", "-f", "-s", "-i", "-e", program, hex(offset - 1)], capture_output=True, text=True,
                           check=False).stdout.split("\n")
    pairs = [f"{name} ({line.split(' ')[0]})" for name, line in zip(found[0::2], found[1::2])]
    return " < ".join(pairs) or hex(offset)


class Control:
    def __init__(self):
        low = os.memfd_create("kaiso-faults")
        self.fd = fcntl.fcntl(low, fcntl.F_DUPFD, 200)  # out of the way of what a test numbers
        os.close(low)
        os.ftruncate(self.fd, ctypes.sizeof(_Control))
        self._memory = mmap.mmap(self.fd, ctypes.sizeof(_Control))
        self.shared = _Control.from_buffer(self._memory)
        self.shared.magic = _MAGIC
        self.exempt(())

    def new_process(self):
        self.off()
        self.exempt(())
        self.shared.owner = 0

    def off(self):
        self.shared.mode = OFF

    def record(self):
        self.off()
        ctypes.memset(self.shared.places, 0, ctypes.sizeof(self.shared.places))
        self.shared.mode = RECORD

    def recorded(self):
        """The places that were passed since record(), in no special order; off from here on."""
        self.off()
        assert not self.shared.places_full, "there are more places than the interposer has room for"
        return [Place(place, self.shared.names, self.shared.modules) for place in self.shared.places if place.hash]

    def arm(self, fault):
        self.off()
        shared = self.shared
        shared.function, shared.place = fault.place.number, fault.place.hash
        shared.error, shared.is_short = fault.code or 0, fault.code is None
        shared.first, shared.last = fault.first, fault.last
        shared.hits = shared.injected = 0
        shared.mode = INJECT

    def exempt(self, descriptors):
        """Calls with these are left alone."""
        assert len(descriptors) <= _EXEMPT_MAX
        for index in range(_EXEMPT_MAX):
            self.shared.exempt[index] = descriptors[index] if index < len(descriptors) else -1


class Fault:
    """One errno (None: a short read or write) at one place, from its first to its last occurrence there."""

    def __init__(self, place, code, first=1, last=None):
        self.place = place
        self.code = code
        self.first = first
        self.last = last or first

    @property
    def is_lasting(self):
        return self.last == FOREVER

    def text(self, program):
        name = errno.errorcode.get(self.code, self.code) if self.code is not None else "a short one"
        when = f"every one from no. {self.first} on" if self.is_lasting else f"no. {self.first}"
        return f"{name} at {when} of {self.place.text(program)}"
