"""The harness itself: what it is there to notice, it notices."""

import subprocess
import sys

import pytest

from harness import router as router_module
from harness.logfmt import parse_line
from harness.process import assert_quiet
from harness.router import SANITIZER_REPORT
from harness.wait import Overdue, Task, wait_until


def test_notices_descriptors_that_stay(router, monkeypatch):
    """A session that is still open is what a leak looks like."""
    router.echo("foo")
    client = router.open("foo").exchange(b"hello")
    monkeypatch.setattr(router_module, "wait_until", lambda *words: wait_until(*words, timeout=0.05))
    with pytest.raises(Overdue, match="descriptors to be closed"):
        router.wait_fds_back()
    client.close()


def test_notices_a_process_that_spins():
    """One that loops for ever."""
    with subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"],
                          stdout=subprocess.PIPE) as spinning:
        try:
            spinning.stdout.readline()
            with pytest.raises(AssertionError, match="spins"):
                assert_quiet(spinning.pid)
        finally:
            spinning.kill()


def test_notices_another_reason(router):
    """A session that ended otherwise than expected fails at once, not by a deadline."""
    client = router.open("nothing")
    client.expect_closed()
    with pytest.raises(AssertionError, match="reason should be done"):
        router.wait_session(client, reason="done")


def test_notices_a_router_that_ended(router):
    """And so does a line that can come no more."""
    router.signal(15)
    router.wait_exit()
    with pytest.raises(AssertionError, match="the log ended"):
        router.wait_log(msg="session")


@pytest.mark.parametrize("report", [
    b"==1==ERROR: AddressSanitizer: heap-use-after-free", b"x.c:1:2: runtime error: signed integer overflow",
    b"WARNING: ThreadSanitizer: data race (pid=1)", b"==1==ERROR: LeakSanitizer: detected memory leaks",
])
def test_knows_the_reports_of_sanitizers(report):
    """Each kind."""
    assert SANITIZER_REPORT.search(report) and parse_line(report) is None


@pytest.mark.parametrize("raw, pairs", [
    (b"time=1 level=info msg=x", [("time", "1"), ("level", "info"), ("msg", "x")]),
    (b'msg="a b" reason="x=\\"y\\""', [("msg", "a b"), ("reason", 'x="y"')]),
    (rb'service="\xff\n"', [("service", "\udcff\n")]),
    (b"listen=a listen=b", [("listen", "a"), ("listen", "b")]),
    (b"no line", None), (b'msg="open', None), (b"", None), (b"a=b  c=d", None),
])
def test_reads_lines(raw, pairs):
    """logfmt, strictly."""
    line = parse_line(raw)
    assert (line and line.pairs) == pairs


def test_tasks_hand_on_what_they_raise():
    """A failure in a thread is a failure of the test."""
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 // 0).join()
