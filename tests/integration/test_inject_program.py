"""The program under `kaiso inject`: found, refused, signalled, ended, as if there were no wrapper."""

import errno
import os
import pty
import signal
import subprocess

import pytest

from harness import process
from harness.inject import MODES, PROGRAMS, compile_c, helpers, inject, inject_words
from harness.namespaces import public_kaiso
from harness.router import clean_environment
from harness.wait import DEADLINE, wait_until

modes = pytest.mark.parametrize("mode", MODES)
NOBODY = "127.0.0.1:1"  # no connection is made in these tests


@pytest.fixture(autouse=True)
def no_helper_stays():
    before = helpers()
    yield
    wait_until(lambda: helpers() == before, lambda: f"the wrappers to end; there are {helpers()}")


def start(mode, *program, **how):
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen(inject_words(mode, NOBODY, "web", *program), env=clean_environment(), **how)


def run(mode, *program, **how):
    return inject(mode, NOBODY, "web", *program, **how)


@modes
def test_exit_status(mode):
    for status in (0, 1, 7, 125, 255):
        assert run(mode, "sh", "-c", f"exit {status}").returncode == status


@modes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGUSR1])
def test_ended_by_a_signal(mode, number):
    assert run(mode, "sh", "-c", f"kill -{int(number)} $$").returncode == -number


@modes
def test_program_that_is_not_there(mode):
    for word in ("no-such-program", "./no/such", ""):
        done = run(mode, word)
        assert done.returncode == 127 and b"no such program" in done.stderr, done


@modes
def test_program_that_cannot_be_run(mode, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("exit 3\n")
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    for word in (plain, tmp_path, broken):
        done = run(mode, word)
        assert done.returncode == 126 and b"cannot run" in done.stderr, done


@modes
def test_scripts(mode, tmp_path):
    for name, first_line in ("bare", ""), ("shell", "#!/bin/sh\n"), ("env", "#!/usr/bin/env -S sh\n"):
        script = tmp_path / name
        script.write_text(first_line + 'echo "$#:$1"; exit 5\n')
        script.chmod(0o755)
        done = run(mode, script, "a b", "c")
        assert (done.stdout, done.returncode) == (b"2:a b\n", 5), done


@modes
def test_set_uid_programs_are_refused(mode, tmp_path):
    for bits in (0o4755, 0o2755):
        path = tmp_path / f"program{bits:o}"
        path.write_bytes(open("/bin/true", "rb").read())
        path.chmod(bits)
        done = run(mode, path)
        assert done.returncode == 126 and b"cannot wrap" in done.stderr and b"set-uid" in done.stderr, done


@modes
def test_32_bit_programs_are_refused(mode, tmp_path):
    path = tmp_path / "tiny"
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-o", path, PROGRAMS / "tiny_i386.s"], check=True)
    done = run(mode, path)
    assert done.returncode == 126 and b"cannot wrap" in done.stderr and b"32-bit" in done.stderr, done


@pytest.mark.parametrize("words", [[], ["by-socketcall"]])
def test_32_bit_children_cannot_get_around_the_wrapper(tmp_path, words):
    """A native program may start them, but their calls have other numbers: connecting fails, the rest works."""
    path = tmp_path / "connect"
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-o", path, PROGRAMS / "connect_i386.s"], check=True)
    assert subprocess.run([path, *words], check=False).returncode == errno.ECONNREFUSED
    assert run("seccomp", "sh", "-c", '"$@"; exit $?', "sh", path, *words).returncode == errno.ENOSYS
    assert run("preload", "sh", "-c", '"$@"; exit $?', "sh", path, *words).returncode == 126


def test_static_programs_are_refused_under_preload_and_wrapped_in_auto(tmp_path):
    path = compile_c(tmp_path, "connect_probe", "-static")
    assert run("preload", path).returncode == 126
    assert run("auto", path).returncode == 2  # its own usage error


@modes
def test_an_unreadable_program_is_refused(mode, tmp_path):
    if os.geteuid() == 0:
        wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        tmp_path.chmod(0o755)
    else:
        wrapper = []
    path = tmp_path / "program"
    path.write_bytes(open("/bin/true", "rb").read())
    path.chmod(0o711 if wrapper else 0o111)
    for parent in path.parents:
        if not parent.stat().st_mode & 0o005 and wrapper:
            parent.chmod(parent.stat().st_mode | 0o005)
    done = subprocess.run([*wrapper, *inject_words(mode, NOBODY, "web", path)], capture_output=True, check=False,
                          timeout=DEADLINE, env=clean_environment())
    assert done.returncode == 126 and b"cannot be read" in done.stderr, done


@modes
def test_usage_errors(mode):
    for words in (["--mode", "other", NOBODY, "web", "true"], [NOBODY], [NOBODY, "web"], [NOBODY, "web", "--"],
                  ["--route", "x", NOBODY, "web", "true"], ["nowhere:port", "web", "true"], ["127.0.0.1:0", "web", "true"],
                  ["127.0.0.1:66000", "web", "true"], [NOBODY, "a\nb", "true"], [NOBODY, "x" * 4095, "true"],
                  ["kaiso://127.0.0.1", "true"], ["kaiso://127.0.0.1/%zz", "true"], ["--unknown", NOBODY, "web", "true"]):
        done = subprocess.run([*inject_words(mode, "", "")[:4], *words], capture_output=True, check=False,
                              timeout=DEADLINE, env=clean_environment())
        assert done.returncode == 2 and done.stderr, (words, done)


@modes
def test_options_behind_the_program_are_its_own(mode):
    assert run(mode, "echo", "--mode", "--help", "--", "-x").stdout == b"--mode --help -- -x\n"


@modes
def test_environment_descriptors_and_signals_are_as_without(mode, tmp_path):
    """Descriptors, signal mask and dispositions, working directory and variables: compared with a plain run."""
    program = """
import os, signal
print(sorted(os.listdir("/proc/self/fd"), key=int)[:-1], os.getcwd())
print([line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn", "SigCgt"))])
print(sorted((k, v) for k, v in os.environ.items() if not k.startswith(("LD_PRELOAD", "KAISO"))))
"""
    extra = os.open("/dev/null", os.O_RDONLY)
    words = ["/usr/bin/python3", "-c", program]

    def prepare():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})

    try:
        how = {"capture_output": True, "check": False, "timeout": DEADLINE, "cwd": tmp_path, "pass_fds": [extra],
               "preexec_fn": prepare, "env": clean_environment()}
        plain = subprocess.run(words, **how)
        wrapped = subprocess.run(inject_words(mode, NOBODY, "web", *words), **how)
        assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, b""), wrapped
    finally:
        os.close(extra)


def test_the_users_preloaded_library_stays(tmp_path):
    source = tmp_path / "user.c"
    source.write_text("int getpagesize(void) { return 4711; }\n")
    library = tmp_path / "user.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    program = "import ctypes; print(ctypes.CDLL(None).getpagesize())"
    for mode in MODES:
        done = run(mode, "/usr/bin/python3", "-c", program, env={"LD_PRELOAD": str(library)})
        assert done.stdout == b"4711\n", done


@modes
def test_output_ends_when_the_program_closes_it(mode):
    """Nobody else holds the pipe: its reader sees the end while the program lives on."""
    child = start(mode, "sh", "-c", "echo here; exec >&- 2>&-; exec sleep 1000")
    assert child.stdout.read() == b"here\n"
    assert child.stderr.read() == b""
    child.terminate()
    assert child.wait(DEADLINE) == -signal.SIGTERM


@modes
def test_signals_reach_the_program_once(mode, tmp_path):
    program = """
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGCONT, signal.SIGRTMIN):
    signal.signal(number, lambda number, frame: got.append(number))
print("ready", flush=True)
while signal.SIGUSR1 not in got:
    time.sleep(0.01)
time.sleep(0.2)
print(sorted(map(int, got)), flush=True)
"""
    for to_group in (False, True):
        child = start(mode, "/usr/bin/python3", "-c", program, start_new_session=True)
        assert child.stdout.readline() == b"ready\n"
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGRTMIN, signal.SIGUSR1):
            (os.killpg if to_group else os.kill)(child.pid, number)
        expected = sorted(map(int, [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGRTMIN]))
        assert child.communicate(timeout=DEADLINE)[0].decode() == f"{expected}\n"


@modes
def test_stopping_and_going_on(mode):
    child = start(mode, "sh", "-c", "kill -STOP $$; echo on")
    pid, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
    os.kill(child.pid, signal.SIGCONT)
    assert child.communicate(timeout=DEADLINE)[0] == b"on\n"


@modes
def test_interrupt_from_the_terminal(mode):
    """One Ctrl-C is one SIGINT."""
    program = """
import signal, time
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
print("ready", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.2)
print("count", len(got), flush=True)
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(inject_words(mode, NOBODY, "web")[0], inject_words(mode, NOBODY, "web", "/usr/bin/python3", "-c", program),
                  clean_environment())
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while not output.partition(b"count")[2].endswith(b"\n"):
        output += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"count 1" in output


def test_killed_tool_takes_the_program_along(tmp_path):
    child = start("seccomp", "sh", "-c", "echo $$; exec sleep 1000")
    program = int(child.stdout.readline())
    child.kill()
    child.wait(DEADLINE)
    wait_until(lambda: not os.path.exists(f"/proc/{program}"), "the program to end with the tool")
    child.communicate()


def test_killed_supervisor_takes_the_program_along():
    child = start("seccomp", "sh", "-c", "sleep 1000 & echo $$ $!; wait")
    program, background = map(int, child.stdout.readline().split())
    supervisor = next(pid for pid, parent in helpers() if parent == child.pid)
    os.kill(supervisor, signal.SIGKILL)
    assert child.wait(DEADLINE) == -signal.SIGKILL
    wait_until(lambda: not os.path.exists(f"/proc/{program}") and not os.path.exists(f"/proc/{background}"),
               "the program and what it started to end with the supervisor")
    child.communicate()


def test_supervisor_stays_for_what_the_program_leaves_behind(router):
    """The tool ends at once with the program; its daemon is served on, and then the supervisor ends."""
    router.echo("web")
    daemon = f"""
import os, socket, sys
sys.stdin.close()
gate = os.open(sys.argv[1], os.O_RDONLY)
s = socket.create_connection(("127.0.0.1", {router.port})); s.sendall(b"late"); s.shutdown(1)
open(sys.argv[2], "wb").write(s.recv(99))
"""
    gate, result = str(router.root / "gate"), str(router.root / "result")
    os.mkfifo(gate)
    done = inject("seccomp", router.address, "web", "sh", "-c", 'setsid "$@" >/dev/null 2>&1 & exit 3', "sh",
                  "/usr/bin/python3", "-c", daemon, gate, result)
    assert done.returncode == 3
    supervisor = wait_until(lambda: [pid for pid, parent in helpers() if parent == 1 or parent != os.getpid()], "it")[0]
    process.assert_quiet(supervisor)
    assert {fd for fd in process.list_fds(supervisor) if fd <= 2} == {0, 1, 2}
    assert set(map(process.list_fds(supervisor).get, (0, 1, 2))) == {"/dev/null"}
    os.close(os.open(gate, os.O_WRONLY))
    wait_until(lambda: os.path.exists(result) and os.path.getsize(result), "the daemon's connection")
    assert open(result, "rb").read() == b"late"
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"), "the supervisor to end")


def test_supervisor_keeps_no_descriptors(router):
    router.echo("web")
    program = f"""
import socket, sys
for i in range(200):
    s = socket.create_connection(("127.0.0.1", {router.port})); s.close()
    s = socket.socket(); s.setblocking(False); s.connect_ex(("127.0.0.1", {router.port})); s.close()
print("done", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(inject_words("seccomp", router.address, "web", "/usr/bin/python3", "-c", program),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment())
    assert child.stdout.readline() == b"done\n"
    supervisor = next(pid for pid, parent in helpers() if parent == child.pid)
    assert process.count_fds(supervisor)["socket"] == 1  # to the tool
    assert len(process.list_fds(supervisor)) < 12
    for pid in (supervisor, child.pid):
        process.assert_quiet(pid)
    child.communicate()
    assert child.returncode == 0


@modes
def test_unprivileged(router, mode):
    """As nobody, without any capability."""
    router.echo("web")
    words = inject_words(mode, router.address, "web", "socat", "-", f"TCP:{router.address}")
    if os.geteuid() == 0:
        words[0] = public_kaiso(router.root)
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--", *words]
    done = subprocess.run(words, input=b"both ways", capture_output=True, check=False, timeout=DEADLINE,
                          env=clean_environment())
    assert (done.stdout, done.returncode) == (b"both ways", 0), done


def test_auto_takes_preload_where_seccomp_is_denied(router):
    """Under another supervisor, as in a container: the inner one cannot watch by seccomp."""
    router.echo("web")
    inner = inject_words("auto", router.address, "web", "socat", "-", f"TCP:{router.address}")
    done = run("seccomp", "sh", "-c", '"$@"', "sh", *inner, stdin=b"both ways")
    assert (done.stdout, done.returncode) == (b"both ways", 0), done
    inner[inner.index("auto")] = "seccomp"
    done = run("seccomp", "sh", "-c", '"$@"', "sh", *inner, stdin=b"both ways")
    assert done.returncode == 126 and b"cannot watch" in done.stderr, done


STARTERS = {
    "execve": "import os; os.execv(path, words)",
    "execvpe": "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
               "array = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words))\n"
               "libc.execvp(os.fsencode(path), array)\nraise OSError(ctypes.get_errno(), 'execvp')",
    "execlp": "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
              "libc.execlp(os.fsencode(path), *map(os.fsencode, words), None)\nraise OSError(ctypes.get_errno(), 'execlp')",
    "fexecve": "os.execve(os.open(path, os.O_RDONLY), words, os.environ)",
    "posix_spawn": "sys.exit(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(path, words, os.environ), 0)[1]))",
    "posix_spawnp": "sys.exit(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(path, words, os.environ), 0)[1]))",
    "subprocess": "import subprocess; sys.exit(subprocess.run(words, executable=path).returncode)",
    "cleared": "os.execve(path, words, {})",
}


@pytest.mark.parametrize("way", STARTERS)
def test_children_that_cannot_be_wrapped_are_refused_under_preload(router, tmp_path, way):
    """What the program starts is wrapped or refused, however it is started; never run unwrapped."""
    router.echo("web")
    program = "import os, sys\npath, *words = sys.argv[1:]\n" + STARTERS[way]
    client = compile_c(tmp_path, "short_connections")
    static = compile_c(tmp_path, "short_connections", "-static")
    arguments = ["x", "127.0.0.1", router.port, "1", "4"]
    done = inject("preload", router.address, "web", "/usr/bin/python3", "-c", program, client, *arguments)
    assert (done.stdout, done.returncode) == (b"4 right\n", 0), done
    done = inject("preload", router.address, "web", "/usr/bin/python3", "-c", program, static, *arguments)
    assert b"cannot wrap" in done.stderr and b"PermissionError" in done.stderr and done.stdout == b"", done


@modes
def test_shells_and_what_they_start(router, tmp_path, mode):
    """Scripts without a first line, $PATH with holes, an emptied environment."""
    router.echo("web")
    (tmp_path / "bare").write_text(f"printf x | env -i socat - TCP:127.0.0.1:{router.port}\n")
    (tmp_path / "bare").chmod(0o755)
    path = f"/no/such:/etc/passwd:{tmp_path}:{os.environ['PATH']}"
    for words in (["sh", "-c", "bare"], ["env", "bare"], ["bash", "-c", "exec bare"], ["bare"], ["nice", "bare"]):
        done = inject(mode, router.address, "web", *words, env={"PATH": path})
        assert done.stdout == b"x", (words, done)
