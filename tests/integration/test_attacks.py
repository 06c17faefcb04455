"""Floods, one for each limit of the protocol: others are served meanwhile, and afterwards all is as it was."""

import contextlib

import pytest

from harness.attacks import Attack, Target
from harness.wait import IS_SANITIZED, wait_until

ATTACKERS, OTHERS = "127.0.0.66", "127.0.0.3"  # where they come from
DIRECTORIES = 6
MEMORY_SLACK = 16 << 20  # what the allocator may keep


def few_or(count):
    """So many; a tenth of it where all is slow."""
    return count // 10 if IS_SANITIZED else count


class Others:
    """Who is served already, and who comes meanwhile."""

    def __init__(self, router):
        self.router = router
        self.player = router.connect(source=OTHERS).line("echo").exchange(b"hello")
        self.memory = router.rss()

    def play(self):
        """A ping-pong that goes on, new clients, and a list."""
        for number in range(100):
            self.player.exchange(b"ping %d" % number)
        for _ in range(10):
            with self.router.connect(source=OTHERS) as client:
                client.line("echo").exchange(b"a new one").end().expect_end()
        # A list may be refused while very many are asked for (--max-lists), but not for long.
        wait_until(lambda: b"echo\r\n" in self.router.list(source=OTHERS), "a list")
        self.player.exchange(b"pong")

    def check_after(self):
        """The attack is over."""
        self.play()
        self.player.end().expect_end()
        self.player.close()
        self.router.wait_fds_back()
        if not IS_SANITIZED:
            wait_until(lambda: self.router.rss() - self.memory < MEMORY_SLACK,
                       lambda: f"memory to come down from {self.router.rss()} to about {self.memory}")
        self.router.assert_quiet()


@contextlib.contextmanager
def attacked(router, others, kind, line, count, rounds=3, release=None):
    """While the attack goes on, others play, some rounds of it; release() and check_after() behind it."""
    attack = Attack(kind, router.address, line, count, ATTACKERS)
    with attack:
        for _ in range(rounds):
            others.play()
        yield attack
    assert attack.count >= count
    if release:
        release()
    others.check_after()


def test_slow_lines_by_the_thousand(new_router):
    """A byte at a time; none of them is ever a whole line."""
    router = new_router("--threads", "1")
    router.echo("echo")
    with attacked(router, Others(router), "slow-lines", "", few_or(3000)):
        assert router.fds()["socket"] >= few_or(3000)


def test_lists_never_read(new_router):
    """Long lists, a hundred on each connection, that nobody takes."""
    router = new_router("--threads", "1")
    router.echo("echo")
    for number in range(2000):
        router.link(f"{number:04}-{'n' * 200}", "echo")
    with attacked(router, Others(router), "unread-lists", "", few_or(400)):
        pass


def test_lists_of_many_directories_never_read(new_router):
    """The texts cannot be shared: what they may take altogether is bounded, and is not used up for ever."""
    router = new_router("--threads", "1", "--request-timeout", "1s")
    router.echo("echo")
    for number in range(DIRECTORIES):
        for name in range(100):
            router.link(f"{number}/{name:04}-{'n' * 200}", "../echo")
    others = Others(router)
    with contextlib.ExitStack() as stack:
        for number in range(2 if IS_SANITIZED else DIRECTORIES):
            stack.enter_context(Attack("unread-lists", router.address, f"{number}/", few_or(100), ATTACKERS))
        for _ in range(3):
            others.play()
    others.check_after()


def test_ten_thousand_connections_from_one_address(new_router):
    """All of them silent. They are let in where no limit by address is set, and others with them."""
    router = new_router("--threads", "1", "--max-sessions", "12000")  # else it may be a little less than 10 000
    router.echo("echo")
    with attacked(router, Others(router), "connections", "", few_or(10_000)):
        wait_until(lambda: router.fds()["socket"] >= few_or(10_000) * 9 // 10, "them all")


def test_ten_thousand_connections_where_an_address_has_a_limit(new_router):
    """Of that address only so many are let in; others do not notice."""
    router = new_router("--threads", "1", "--max-sessions-per-address", "50")
    router.echo("echo")
    with attacked(router, Others(router), "connections", "", few_or(10_000)):
        assert router.fds()["socket"] < 200
        router.wait_log(msg="session", reason="limit")


def test_ten_thousand_connections_for_few_sessions(new_router):
    """--max-sessions is used up by them: nobody new is served, but whoever is goes on; afterwards all are."""
    router = new_router("--threads", "1", "--max-sessions", "100")
    router.echo("echo")
    others = Others(router)
    with Attack("connections", router.address, "", few_or(10_000), ATTACKERS):
        for number in range(300):
            others.player.exchange(b"ping %d" % number)
        router.connect(source=OTHERS).line("echo").expect_closed()
    wait_until(lambda: router.fds()["socket"] < 20, "the sessions to end")
    others.check_after()


def test_loop_through_one_router(new_router):
    """Asked for again and again, by many at a time."""
    router = new_router("--threads", "1")
    router.echo("echo")
    router.describe("x", f"{router.address} y\n")
    router.describe("y", f"{router.address} x\n")
    with attacked(router, Others(router), "requests", "x", few_or(100)):
        router.wait_log(msg="session", reason="loop")


def test_loop_through_two_routers(new_router):
    """It ends at a limit. With one for each address there is always room for others."""
    options = ("--threads", "1", "--max-sessions-per-address", "100")
    first, second = new_router(*options), new_router(*options)
    first.echo("echo")
    first.describe("x", f"{second.address} x\n")
    second.describe("x", f"{first.address} x\n")
    with attacked(first, Others(first), "requests", "x", few_or(50)):
        assert first.fds()["socket"] < 500
        wait_until(lambda: first.log.find(reason="limit") + second.log.find(reason="limit"), "the limit")
    second.wait_fds_back()


def test_service_that_accepts_and_never_reads(new_router):
    """Uploads into nothing, as much as is taken."""
    router = new_router("--threads", "1")
    router.echo("echo")
    backend = router.backend("sink", backlog=few_or(300))
    with attacked(router, Others(router), "unread-service", "sink", few_or(200), release=backend.close):
        assert router.rss() < 400 << 20 or IS_SANITIZED


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_full_backlog(new_router, kind):
    """Many clients wait for a service that accepts nobody."""
    router = new_router("--threads", "1", "--connect-timeout", "1s")
    router.echo("echo")
    backend = router.backend("foo", backlog=1) if kind == "unix" else router.backend_tcp("foo", backlog=1)
    fillers = backend.fill_backlog()
    try:
        with attacked(router, Others(router), "requests", "foo", few_or(2000)):
            pass
    finally:
        for filler in fillers:
            filler.close()


def test_resets_at_full_rate(new_router):
    """Clients that come and go by a reset, at each point of a request."""
    router = new_router("--threads", "1")
    router.echo("echo")
    target = router.keep(Target(router.path("target")))
    with attacked(router, Others(router), "resets", "target", few_or(2000)):
        pass
    assert target.process.poll() is None
