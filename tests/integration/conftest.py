"""Fixtures of the integration tests. `KAISO` names the program (build/kaiso when it is not set)."""

import resource
import threading

import pytest

from harness.router import KAISO, Router
from harness.services import has_ipv6
from harness.wait import IS_SANITIZED

# Sanitizers bring flags of their own; what is installed is built without them. Pages, their tutorials and completions are
# no code of theirs, and neither are the servers that passfd wraps (test_passfd.py has what is kaiso's in it) and the units. The
# tests of hosts wait for the kernel's timers.
collect_ignore = (["test_hardening.py", "test_man.py", "test_completion.py", "test_passfd_servers.py", "test_systemd.py",
                   "test_proxy_peers.py",
                   "test_hosts.py", "test_mirror.py", "test_mirror_hosts.py", "test_docs.py", "test_progress.py"] if IS_SANITIZED else [])


def pytest_configure(config):
    config.addinivalue_line("markers", "threads: many threads at once; these also run with the thread sanitizer")
    config.addinivalue_line("markers", "ipv6: needs [::1], as does whatever has it among its parameters")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(256 * 1024)


def pytest_runtest_setup(item):
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    needs_ipv6 = item.get_closest_marker("ipv6") or any("::" in str(one) or one == ":0" for one in parameters)
    if needs_ipv6 and not has_ipv6():
        pytest.skip("this host has no IPv6")


@pytest.fixture(scope="session")
def kaiso():
    """The path of the program under test."""
    return KAISO


@pytest.fixture
def new_router():
    """Makes routers: new_router(*options, start=True, **see Router). All are checked when the test ends.

    kind: a class derived from Router, whose arguments it takes then.
    """
    routers = []

    def make(*options, start=True, kind=Router, **how):
        router = kind(*options, **how)
        routers.append(router)
        return router.start() if start else router

    yield make
    errors = []
    for step in ("close_things", "stop", "kill", "remove"):
        for router in routers:
            try:
                getattr(router, step)()
            except BaseException as error:
                errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def router(new_router):
    """A running router with default options and an empty services directory."""
    return new_router()
