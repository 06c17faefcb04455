"""The services directory itself: a link, empty, replaced, missing (the protocol, sections 2 and 3)."""

import os
import shutil

from harness.namespaces import not_almighty
from harness.router import run_kaiso
from harness.services import make_directories


def test_directory_is_a_link(new_router):
    """The services directory may be a link."""
    router = new_router(start=False)
    link = router.root / "link"
    link.symlink_to("services")
    router.services_argument = str(link)
    router.start()
    router.echo("foo")
    assert router.list() == b"foo\r\n\r\n"
    router.open("foo").exchange(b"hello")


def test_link_turned_to_another_directory(new_router):
    """It may be replaced by another while the router runs: here the link is turned."""
    router = new_router(start=False)
    link = router.root / "link"
    link.symlink_to("services")
    router.services_argument = str(link)
    router.start()
    router.echo("old")
    session = router.open("old").exchange(b"hello")
    (router.root / "next").mkdir()
    router.services = router.root / "next"
    router.echo("new")
    router.echo("sub/newer")
    (router.root / "passing").symlink_to("next")
    os.rename(router.root / "passing", link)
    assert router.list() == b"new\r\nsub/newer\r\n\r\n"
    router.open("new").exchange(b"hello")
    router.open("sub/newer").exchange(b"hello")
    router.open("old").expect_closed()
    session.exchange(b"a session goes on")


def test_directory_replaced_by_another(router):
    """The same by renaming: what is resolved is the name, each time."""
    router.echo("old")
    session = router.open("old").exchange(b"hello")
    os.rename(router.services, router.root / "away")
    router.services.mkdir()
    router.echo("new")
    assert router.list() == b"new\r\n\r\n"
    router.open("new").exchange(b"hello")
    client = router.open("old")
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    session.exchange(b"a session goes on")


def test_directory_gone_for_a_while(router):
    """While there is none there are no services; when it is back they are."""
    router.echo("foo")
    os.rename(router.services, router.root / "away")
    client = router.open("foo")
    client.expect_closed()
    router.wait_session(client, reason="not-found")
    os.rename(router.root / "away", router.services)
    router.open("foo").exchange(b"hello")
    assert router.list() == b"foo\r\n\r\n"


def test_services_come_and_go(router):
    """The file system is the configuration: there is nothing to reload."""
    for _ in range(3):
        router.open("d/foo").expect_closed()
        service = router.echo("d/foo")
        router.open("d/foo").exchange(b"hello")
        service.close()
        shutil.rmtree(router.path("d"))


def _expect_refused(*arguments, names, **where):
    result = run_kaiso("serve", *arguments, "127.0.0.1:0", **where)
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and len(lines) == 1, (result.returncode, result.stderr)
    assert names.encode() in lines[0]
    assert result.stdout == b""


def test_missing_directory(tmp_path):
    """It must exist when the router starts; the first kaiso started anyway."""
    _expect_refused("--services", str(tmp_path / "missing"), names=str(tmp_path / "missing"))


def test_file_instead_of_a_directory(tmp_path):
    """A file is no services directory."""
    (tmp_path / "file").write_text("127.0.0.1:80\n")
    _expect_refused("--services", str(tmp_path / "file"), names=str(tmp_path / "file"))


def test_link_that_leads_nowhere(tmp_path):
    """Nor is a link to nothing."""
    (tmp_path / "link").symlink_to("nowhere")
    _expect_refused("--services", str(tmp_path / "link"), names=str(tmp_path / "link"))


def test_directory_named_by_the_environment(new_router, tmp_path):
    """KAISO_SERVICES names it where --services does not; the option wins."""
    router = new_router(start=False)
    router.command = ["serve", "127.0.0.1:0"]
    router.env = {"KAISO_SERVICES": router.services}
    router.start()
    router.echo("foo")
    router.open("foo").exchange(b"hello")
    _expect_refused(names=str(tmp_path / "missing"), KAISO_SERVICES=tmp_path / "missing")
    other = new_router(env={"KAISO_SERVICES": str(tmp_path / "missing")})
    assert other.list() == b"\r\n"


def test_relative_directory(new_router):
    """A relative name is one from the working directory at the start."""
    router = new_router(start=False)
    router.services_argument = "services"
    router.cwd = router.root
    router.start()
    router.echo("d/foo")
    router.describe("described", "d/foo\n")
    assert router.list() == b"d/foo\r\ndescribed\r\n\r\n"
    router.open("described").exchange(b"hello")


def test_deep_working_directory(new_router):
    """A working directory far below 107 bytes of path: the first kaiso stopped there."""
    router = new_router(start=False)
    deep = str(router.root) + "/deep" * 60
    os.close(make_directories(deep + "/services"))
    router.services = deep + "/services"
    router.services_argument = "services"
    router.cwd = deep
    router.start()
    router.echo("foo")
    router.echo("sub/foo")
    router.describe("described", "sub/foo\n")
    for path in ("foo", "sub/foo", "described"):
        router.open(path).exchange(b"hello")
    assert router.list() == b"described\r\nfoo\r\nsub/foo\r\n\r\n"


def test_directory_with_a_slash_at_the_end(new_router):
    """As shells complete it."""
    router = new_router(start=False)
    router.services_argument = f"{router.services}/"
    router.start()
    router.echo("foo")
    router.open("foo").exchange(b"hello")
    assert router.list() == b"foo\r\n\r\n"


def test_what_the_router_may_not_read(new_router):
    """Entries that the router has no rights to are refused, and leave the rest of a list whole."""
    router = new_router(wrapper=not_almighty())  # so that a router started by root is not almighty
    router.echo("foo")
    router.echo("d/foo")
    router.echo("locked/foo")
    router.echo("socket")
    router.describe("description", "127.0.0.1:9\n")
    for name in ("locked", "socket", "description"):
        os.chmod(router.path(name), 0)
    try:
        lines = router.list().split(b"\r\n")
        assert b"foo" in lines and b"d/foo" in lines and b"locked/foo" not in lines
        for path in ("locked/foo", "socket", "description"):
            client = router.open(path)
            client.expect_closed()
            assert router.wait_session(client)["reason"] in ("unavailable", "not-found", "invalid")
        router.open("foo").exchange(b"hello")
    finally:
        os.chmod(router.path("locked"), 0o700)
