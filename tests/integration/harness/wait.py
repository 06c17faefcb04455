"""Waiting for conditions: never a plain sleep, always a deadline that fails with a sentence."""

import os
import threading
import time

# tools/check says which build it runs in $KAISO_BUILD; by hand, KAISO_SANITIZED=1 does.
IS_SANITIZED = os.environ.get("KAISO_BUILD") in ("address", "thread") or os.environ.get("KAISO_SANITIZED", "") not in ("", "0")

# Seconds that anything may take before the test calls it broken. Generous: a busy machine is no failure.
DEADLINE = 60.0 if IS_SANITIZED else 20.0


class Overdue(AssertionError):
    """Something that had to happen did not."""


def wait_until(condition, what, timeout=DEADLINE, interval=0.004):
    """Calls condition() until it gives something true, and returns that. what: text, or a function giving it."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise Overdue(f"waited {timeout:g} s for {what() if callable(what) else what}")
        time.sleep(interval)


class Task:
    """A function in a thread; join() returns its result or raises what it raised."""

    def __init__(self, function, *args, **kwargs):
        self._result = None
        self._error = None
        self._name = getattr(function, "__name__", "task")
        self._thread = threading.Thread(target=self._run, args=(function, args, kwargs), daemon=True)
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._result = function(*args, **kwargs)
        except BaseException as error:  # handed to join()
            self._error = error

    def is_running(self):
        return self._thread.is_alive()

    def join(self, timeout=3 * DEADLINE):
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise Overdue(f"{self._name} did not end within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._result
