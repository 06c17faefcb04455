"""kaiso check: what it shows of a services directory, and the mistakes it finds there."""

import os
import pty
import shutil
import socket
import subprocess

import pytest

from harness.router import run_kaiso


@pytest.fixture
def services(tmp_path):
    path = tmp_path / "services"
    path.mkdir()
    return path


@pytest.fixture
def check(tmp_path):
    """Runs the command in the directory that holds "services"; check(*arguments, **environment)."""
    return lambda *arguments, **environment: run_kaiso("check", *arguments, cwd=tmp_path, **environment)


def make_socket(path):
    # A socket address holds 107 bytes, and pytest's directories are deep: bind by descriptor.
    directory = os.open(os.path.dirname(path), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def test_clean_directory(check, services):
    make_socket(services / "web")
    (services / "far").write_text("example.org:80\n")
    (services / "six").write_text("[::1]:80 a b  \r\n")
    (services / "hand").write_text("web passfd:80\n")
    (services / "to").write_text("web")
    (services / "d").mkdir()
    (services / "d" / "link").symlink_to("../web")
    (services / ".hidden").write_text("nonsense nonsense")
    result = check()
    assert result.stdout.decode().splitlines() == [
        "d/link\tunix\t../web",
        "far\ttcp\texample.org:80",
        "hand\tpassfd\tweb passfd:80",
        "six\tkaiso\t[::1]:80 a b",
        "to\tunix\tweb",
        "web\tunix\tweb",
    ]
    assert result.stderr == b""
    assert result.returncode == 0


def test_empty_directory(check, services):
    result = check()
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


MISTAKES = [
    ("port", lambda path: path.write_text("host:99999\n"), b"services/port:1: "),
    ("empty", lambda path: path.write_text(""), b"services/empty:"),
    ("comment", lambda path: path.write_text("# here\nhost:80\n"), b"services/comment:1: "),
    ("big", lambda path: path.write_text("x" * 65537), b"services/big: more than 65536 bytes"),
    ("gone", lambda path: path.symlink_to("no/where"), b"services/gone: dangling link to no/where"),
    ("self", lambda path: path.symlink_to("self"), b"services/self: dangling link to self"),
    ("fifo", os.mkfifo, b"services/fifo: neither a socket"),
    ("device", lambda path: path.symlink_to("/dev/null"), b"services/device: neither a socket"),
    ("a\nb\x1b", lambda path: path.write_text("host:80\n"), b"services/a\\x0ab\\x1b: control bytes"),
    ("to", lambda path: path.write_text("nosuch.sock\n"), b"services/to:1: its socket nosuch.sock does not exist"),
    ("hand", lambda path: path.write_text("nosuch passfd\n"), b"services/hand:1: its socket nosuch does not"),
    ("me", lambda path: path.write_text("me\n"), b"services/me:1: its socket me is no socket"),
    ("slash", lambda path: path.write_text("slash/x\n"), b"services/slash:1: its socket slash/x cannot be reached"),
]


@pytest.mark.parametrize("name, make, expected", MISTAKES, ids=[ascii(row[0]) for row in MISTAKES])
def test_mistake(check, services, name, make, expected):
    (services / "good").write_text("host:80\n")
    make(services / name)
    result = check()
    remark, summary = result.stderr.splitlines()
    assert remark.startswith(expected)
    assert summary == b"1 mistake"
    assert b"good\ttcp\thost:80\n" in result.stdout
    assert result.returncode == 1


def test_mistakes_are_counted(check, services):
    for name in "abc":
        (services / name).symlink_to("nowhere")
    result = check()
    assert result.stderr.endswith(b"\n3 mistakes\n")
    assert result.stdout == b""
    assert result.returncode == 1


def test_socket_of_a_description_begins_in_the_services_directory(check, services):
    make_socket(services / "s")
    (services / "d").mkdir()
    (services / "d" / "to").write_text("s\n")
    (services / "d" / "outside").write_text(f"{services}/s\n")
    result = check()
    assert (result.returncode, result.stderr) == (0, b"")


def test_circle_is_a_note_and_no_mistake(check, services):
    (services / "again").symlink_to(".")
    result = check()
    assert result.stderr.startswith(b"services/again: note: ")
    assert result.stderr.count(b"\n") == 1
    assert result.returncode == 0


def test_options_of_each_service(check, services):
    """-v shows what holds for each service, and which file says it."""
    make_socket(services / "web")
    (services / ".kaiso").write_text("about everything\nallow 10.0.0.0/8 2001:db8::1\nidle-timeout 90s\n")
    (services / "d").mkdir()
    (services / "d" / ".kaiso").write_text("# nearer\ndeny 10.1.0.0/16\nconnect-timeout 1500ms\nproxy v1\n")
    (services / "d" / "far").write_text("h:80\nbackend g:80\nbackend f:80\nbalance round-robin\nmax-sessions 7\n"
                                        "about \u009bnearest\nidle-timeout 0\n")
    assert check().stdout.decode().splitlines() == ["d/far\ttcp\th:80", "web\tunix\tweb"]
    result = check("-v")
    assert result.stdout.decode().splitlines() == [
        "d/far\ttcp\th:80",
        "\tabout\t\\xc2\\x9bnearest\tservices/d/far",
        "\tbackend\tg:80\tservices/d/far",
        "\tbackend\tf:80\tservices/d/far",
        "\tbalance\tround-robin\tservices/d/far",
        "\tallow\t10.0.0.0/8 2001:db8::1\tservices/.kaiso",
        "\tdeny\t10.1.0.0/16\tservices/d/.kaiso",
        "\tproxy\tv1\tservices/d/.kaiso",
        "\tmax-sessions\t7\tservices/d/far",
        "\tconnect-timeout\t1500ms\tservices/d/.kaiso",
        "\tidle-timeout\t0\tservices/d/far",
        "web\tunix\tweb",
        "\tabout\teverything\tservices/.kaiso",
        "\tallow\t10.0.0.0/8 2001:db8::1\tservices/.kaiso",
        "\tidle-timeout\t90s\tservices/.kaiso",
    ]
    assert result.stderr == b""
    assert result.returncode == 0


def test_options_of_a_directory_are_checked(check, services):
    (services / "d" / "e").mkdir(parents=True)
    (services / ".kaiso").write_text("about fine\n")
    (services / "d" / ".kaiso").write_text("about fine\nproxy v3\n")
    (services / "d" / "e" / ".kaiso").mkdir()
    (services / "d" / "e" / "typo").write_text("h:99999\n")
    result = check()
    assert [line.split(": ")[0] for line in result.stderr.decode().splitlines()] == [
        "services/d/.kaiso:2", "services/d/e/.kaiso", "services/d/e/typo:1", "3 mistakes"]
    assert result.returncode == 1


WARNINGS = [
    ("h:80\nbalance first\n", 2, "balance without a backend"),
    ("h:80\nabout x\nallow 10.0.0.1/8\n", 3, "10.0.0.1/8 is as good as 10.0.0.0/8"),
    ("h:80\nallow ::1\nallow ::2 ::1\n", 3, "::1 is in line 2 already"),
    ("h:80\ndeny ::/0\nallow 1.2.3.4 ::/0\n", 3, "::/0 is both allowed and denied (line 2)"),
    ("h:80\nbackend g:80\nbackend h:80\n", 3, "this target is that of the first line"),
    ("h:80\nbackend g:80\n\nbackend g:80\n", 4, "this target is that of line 2"),
]


@pytest.mark.parametrize("text, line, expected", WARNINGS, ids=[row[2] for row in WARNINGS])
def test_warning(check, services, text, line, expected):
    """What is valid and can hardly be meant is told, and is no mistake."""
    (services / "foo").write_text(text)
    result = check()
    assert result.stderr.decode().startswith(f"services/foo:{line}: warning: {expected}")
    assert result.stderr.count(b"\n") == 1
    assert result.returncode == 0


def test_sockets_of_backends_are_looked_for(check, services):
    make_socket(services / "web")
    (services / "foo").write_text("web\nbackend h:80\nbackend gone\n")
    result = check()
    assert result.stderr.decode() == "services/foo:3: its socket gone does not exist\n1 mistake\n"


def test_path_that_no_request_can_carry(check, services):
    directory = os.open(services, os.O_PATH)
    for _ in range(17):
        os.mkdir("n" * 250, dir_fd=directory)
        inner = os.open("n" * 250, os.O_PATH, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
    result = check()
    assert b"longer than the 4095 bytes" in result.stderr
    assert result.stderr.endswith(b"\n1 mistake\n")
    assert result.returncode == 1


@pytest.fixture
def check_without_rights(kaiso, tmp_path):
    """The same as a user whom permissions concern: as oneself, or as nobody when that is root."""
    program = shutil.copy(kaiso, tmp_path / "kaiso")  # for nobody may reach the place where it was built
    os.chmod(tmp_path, 0o755)
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    return lambda *arguments: subprocess.run(
        [f"./{os.path.basename(program)}", "check", *arguments], cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, **nobody,
    )


def test_unreadable(check_without_rights, services):
    os.chmod(services, 0o755)
    (services / "d").mkdir(mode=0)
    (services / "f").touch(mode=0)
    result = check_without_rights()
    assert result.stderr.splitlines() == [
        b"services/d: cannot be read: Permission denied",
        b"services/f: cannot be read: Permission denied",
        b"2 mistakes",
    ]
    assert result.returncode == 1


def test_directory_from_option_and_environment(check, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("host:80\n")
    assert check(KAISO_SERVICES="one").stdout == b"one\ttcp\thost:80\n"
    assert check("--services", "two", KAISO_SERVICES="one").stdout == b"two\ttcp\thost:80\n"
    assert check("--services=two/").stdout == b"two\ttcp\thost:80\n"


def test_mistake_names_the_directory_as_it_was_given(check, services):
    (services / "gone").symlink_to("nowhere")
    for given in (str(services), str(services) + "/"):
        result = check("--services", given)
        assert result.stderr.startswith(f"{services}/gone: ".encode())


@pytest.mark.parametrize("given", ["nowhere", "file"])
def test_no_such_directory(check, tmp_path, given):
    (tmp_path / "file").touch()
    result = check("--services", given)
    (line,) = result.stderr.splitlines()
    assert given.encode() in line
    assert b"--services" in line
    assert result.stdout == b""
    assert result.returncode == 1


def test_default_directory_is_missing(check):
    result = check()
    assert b"'services'" in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize("arguments", [["--unknown"], ["--services"], ["operand"], ["--", "operand"]])
def test_wrong_usage(check, services, arguments):
    result = check(*arguments)
    assert result.stderr.startswith(b"kaiso check: ")
    assert b"--help" in result.stderr
    assert result.stdout == b""
    assert result.returncode == 2


def test_help(check):
    result = check("--help")
    assert result.stdout.startswith(b"Usage: kaiso check ")
    assert b"--services" in result.stdout
    assert result.stderr == b""
    assert result.returncode == 0


def test_columns_on_a_terminal(kaiso, services):
    (services / "short").write_text("host:80\n")
    (services / "l\u00e4nger-als").write_text("host:80 far\n")
    controller, terminal = pty.openpty()
    try:
        subprocess.run(
            [kaiso, "check", "--services", services],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            check=True,
            timeout=60,
        )
        shown = os.read(controller, 4096).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert shown.splitlines() == ["l\u00e4nger-als  kaiso  host:80 far", "short       tcp    host:80"]


def test_full_standard_output(kaiso, services):
    (services / "far").write_text("host:80\n")
    with open("/dev/full", "wb") as full:
        result = subprocess.run([kaiso, "check", "--services", services], stdout=full, stderr=subprocess.PIPE)
    assert b"standard output: " in result.stderr
    assert result.returncode == 1
