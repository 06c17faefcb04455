"""Who may see what: lists leave out what their client may not open (allow, deny, in descriptions and in .kaiso files)."""

import os
import threading
import time

import pytest

NEIGHBOUR = "127.0.0.2"


def names(listed):
    return [line for line in listed.decode().split("\r\n") if line]


@pytest.fixture
def ruled(router):
    router.echo("open")
    router.echo("d/foo")
    router.echo("d/e/bar")
    router.echo("h/baz")
    router.describe("d/.kaiso", f"deny {NEIGHBOUR}\nabout of the house\n")
    router.describe("d/e/.kaiso", "deny 127.0.0.9\n")
    router.describe("h/.kaiso", f"deny {NEIGHBOUR}\n")
    router.describe("own", "open\nallow 127.0.0.1\nabout one's own\n")
    router.describe("d/own", "open\ndeny 127.0.0.1\n")
    router.describe("m", "localhost:1 far/\nabout a mount\n")
    return router


def test_lists_leave_out_what_their_client_may_not_open(ruled):
    assert names(ruled.list()) == ["d/e/bar", "d/foo", "h/baz", "m/", "open", "own"]
    assert names(ruled.list(source=NEIGHBOUR)) == ["d/e/bar", "d/own", "m/", "open"]
    assert names(ruled.list("d/", source=NEIGHBOUR)) == ["d/e/bar", "d/own"]


def test_detailed_lists_say_what_it_is_about(ruled):
    assert names(ruled.list(".kaiso/list")) == [
        "d/e/bar\tunix\tof the house", "d/foo\tunix\tof the house", "h/baz\tunix\t", "m/\tmount\ta mount",
        "open\tunix\t", "own\tunix\tone's own"]
    assert names(ruled.list(".kaiso/list d/", source=NEIGHBOUR)) == [
        "d/e/bar\tunix\tof the house", "d/own\tunix\tof the house"]


def test_directory_that_a_client_may_not_see_is_as_none(ruled):
    """Nor does it tell by an empty list that it is there."""
    assert names(ruled.list("h/")) == ["h/baz"]
    client = ruled.connect(source=NEIGHBOUR)
    client.send(b"h/\r\n")
    client.expect_closed()
    ruled.wait_session(client, reason="not-found")


def test_lists_follow_the_rules_from_the_next_one_on(ruled):
    for rule, expected in [("deny", []), ("allow", ["h/baz"])] * 3:
        ruled.describe("h/.kaiso", f"{rule} {NEIGHBOUR}\n")
        assert [name for name in names(ruled.list(source=NEIGHBOUR)) if name.startswith("h/")] == expected
    os.unlink(ruled.path("h/.kaiso"))
    listed = ruled.list(source="127.0.0.3")
    assert names(listed) == ["d/e/bar", "d/foo", "d/own", "h/baz", "m/", "open"]


def test_lists_never_show_what_all_versions_of_a_file_hide(ruled):
    """However it is edited while they are made."""
    is_over = threading.Event()

    def edit():
        path = ruled.path("h/.kaiso")
        number = 0
        while not is_over.wait(0.001):
            number += 1
            if number % 2:
                os.rename(path, path + b"~")
            with open(path, "w") as file:
                file.write(f"about version {number}\n")
                file.flush()
                file.write(f"deny {NEIGHBOUR}\n")

    editor = threading.Thread(target=edit)
    assert "h/baz" not in names(ruled.list(source=NEIGHBOUR))
    editor.start()
    try:
        for _ in range(150):
            assert "h/baz" not in names(ruled.list(source=NEIGHBOUR))
    finally:
        is_over.set()
        editor.join()
    assert "h/baz" in names(ruled.list())


def test_half_written_file_is_not_believed_however_old_it_is(ruled):
    """Whoever writes it has it open, and that counts for as long as it takes."""
    assert "h/baz" not in names(ruled.list(source=NEIGHBOUR))
    with open(ruled.path("h/.kaiso"), "w") as file:
        file.write("about a file\n")
        file.flush()
        time.sleep(0.25)  # longer than any time that a file has to rest
        assert names(ruled.list("", source=NEIGHBOUR)) == ["d/e/bar", "d/own", "m/", "open"]
        client = ruled.open("h/baz", source=NEIGHBOUR)
        file.write(f"deny {NEIGHBOUR}\n")
    client.expect_closed()
    assert "h/baz" in names(ruled.list())


def test_lists_leave_out_what_lies_below_an_invalid_file(router):
    router.echo("open")
    router.echo("d/foo")
    router.echo("d/e/bar")
    router.describe("d/.kaiso", "alow 127.0.0.1\n")
    assert names(router.list()) == ["open"]
    client = router.connect()
    client.send(b"d/e/\r\n")
    client.expect_closed()
    router.describe("d/.kaiso", "allow 127.0.0.1\n")
    assert names(router.list()) == ["d/e/bar", "d/foo", "open"]


@pytest.mark.parametrize("content", ["\n", "localhost:1\nalow 127.0.0.1\n", "x" * 70000])
def test_what_is_wrong_with_a_service_is_told_to_nobody_who_may_not_see_it(ruled, content):
    ruled.describe("h/wrong", content)
    for line in [b"h/wrong\r\n", b".kaiso/open h/wrong\r\n"]:
        client, other = ruled.connect(source=NEIGHBOUR), ruled.connect(source=NEIGHBOUR)
        client.send(line)
        other.send(line.replace(b"wrong", b"nothing"))
        assert client.receive_all() == other.receive_all()
        ruled.wait_session(client, reason="not-allowed")
    client = ruled.connect()
    client.send(b"h/wrong\r\n")
    client.expect_closed()
    ruled.wait_session(client, reason="invalid")


def test_directory_that_is_empty_is_not_seen_either(ruled):
    ruled.mkdir("h/empty")
    assert names(ruled.list("h/empty/")) == []
    client = ruled.connect(source=NEIGHBOUR)
    client.send(b"h/empty/\r\n")
    client.expect_closed()
    ruled.wait_session(client, reason="not-found")
