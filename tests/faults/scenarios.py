"""What clients do while calls fail: each scenario is short, ends whatever happens, and raises Violation when it must.

is_strict: nothing fails, so everything has to be as it should. error: the errno that something fails with.
"""

import errno
import json
import os
import re
import time

from harness import process
from harness.stream import noise

from . import peers
from .peers import Violation, judge_answer, judge_client, judge_list, judge_service, pump, reset, say

BULK = noise(400_000)
SMALL = b"hello, whoever is there"
# These say that a connection is lost, and the interposer loses it. A UNIX socket knows only an end then.
LOSSES = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
HTTP_PATIENCE = 13.0  # of a connection on which nothing moves: the server closes it after 10 s
EXHAUSTION = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def can_reset(world, name, error):
    """Whether a service that is lost by this error is told from one that has ended."""
    return world.services[name].is_tcp or error not in LOSSES


def relay(world, is_strict, error, line, name, data=BULK, is_unix=False, most=1):
    """A stream there and back, ended by the client."""
    client = world.connect(is_unix)
    got, how = pump(client, line.encode() + b"\r\n" + data)
    client.close()
    calls = world.calls(name)
    judge_service(calls, data, line, is_strict, world.services[name].is_tcp, most)
    judge_client(got, how, data, line, is_strict, calls, can_reset(world, name, error) and not is_unix)


def relay_unix(world, is_strict, error):
    relay(world, is_strict, error, "echo", "echo")


def relay_tcp(world, is_strict, error):
    relay(world, is_strict, error, "tcp", "tcp")


def relay_small(world, is_strict, error):
    relay(world, is_strict, error, "echo", "echo", SMALL)
    relay(world, is_strict, error, "dir/deep/echo", "dir/deep/echo", SMALL)
    relay(world, is_strict, error, "links/echo", "echo", SMALL)


def relay_from_unix(world, is_strict, error):
    """The client is of the UNIX listener, and no reset can reach it."""
    relay(world, is_strict, error, "echo", "echo", is_unix=True)
    relay(world, is_strict, error, "tcp", "tcp", is_unix=True)


def relay_by_file(world, is_strict, error):
    """A file that was just written is read for each client; one that has rested is remembered."""
    world.router.describe("file", ".hidden-echo\n")
    relay(world, is_strict, error, "file", ".hidden-echo", SMALL)


def relay_by_name(world, is_strict, error):
    relay(world, is_strict, error, "name", "name", SMALL)


def relay_again(world, is_strict, error):
    """Through this router twice, which is no loop."""
    relay(world, is_strict, error, "again", "echo", SMALL)


def download(world, is_strict, error):
    """More than buffers hold, to a client that is slow to begin; the service ends first."""
    for line in ("source", "tcp-source"):
        client = world.connect()
        say(client, line.encode() + b"\n")
        time.sleep(0.03)
        got, how = pump(client, end=False)
        client.close()
        judge_client(got, how, peers.SOURCE, line, is_strict, world.calls(line), can_reset(world, line, error))


def upload(world, is_strict, error):
    """More than buffers hold, to a service that is slow to begin."""
    for line in ("late", "tcp-late"):
        client = world.connect()
        got, how = pump(client, line.encode() + b"\n" + peers.SOURCE)
        client.close()
        calls = world.calls(line)
        judge_service(calls, peers.SOURCE, line, is_strict, world.services[line].is_tcp)
        judge_client(got, how, b"%d" % len(peers.SOURCE), line, is_strict, calls, can_reset(world, line, error))


def opened(world, is_strict, error):
    """With a verdict, for each kind of service."""
    for line, name in (("echo", "echo"), ("tcp", "tcp")):
        client = world.connect()
        got, how = pump(client, f".kaiso/open {line}\r\n".encode() + SMALL)
        client.close()
        calls = world.calls(name)
        judge_service(calls, SMALL, line, is_strict, world.services[name].is_tcp)
        if got.startswith(b"-") and not is_strict and not calls:
            continue
        judge_client(got, how, b"+\r\n" + SMALL, f"open {line}", is_strict, calls, can_reset(world, name, error))


def refused(world, is_strict, error):
    for line, code in (("nothing", b"-not-found "), ("bad", b"-invalid "), ("dead", b"-unavailable "),
                       (".hidden", b"-not-found "), ("dir", b"-not-found ")):
        client = world.connect()
        got, how = pump(client, line.encode() + b"\r\n")
        client.close()
        judge_answer(got, how, b"", line, is_strict)
        client = world.connect()
        got, how = pump(client, f".kaiso/open {line}\r\n".encode())
        client.close()
        if got.startswith(b"+") or how == "late" or (is_strict and not got.startswith(code)):
            raise Violation(f"open {line}: the answer is {got!r}, then {how}")
        judge_answer(got, how, got if got.endswith(b"\r\n") else b"", line, False)


def listed(world, is_strict, error):
    names = sorted([*(f"many/{number:02}" for number in range(20)), "again", "bad", "breaks", "bystander", "dead",
                    "dir/deep/echo", "echo", "file", "hand", "knock", "lasting", "late", "links/dir/deep/echo",
                    "links/echo", "name", "source", "tcp", "tcp-bystander", "tcp-late", "tcp-source", "zz-last",
                    *world.extra_names])
    expected = "".join(name + "\r\n" for name in names).encode() + b"\r\n"
    may_lack = error is not None and error not in EXHAUSTION
    client = world.connect()
    got, how = pump(client, b"\r\n")
    client.close()
    judge_list(got, how, expected, "the list", is_strict, may_lack)
    client = world.connect()
    got, how = pump(client, b"dir/\n")
    client.close()
    judge_list(got, how, b"dir/deep/echo\r\n\r\n", "the list of dir/", is_strict, may_lack)


def listed_in_detail(world, is_strict, error):
    client = world.connect()
    got, how = pump(client, b".kaiso/list dir/\r\n.kaiso/list links/\r\n.kaiso/version\n")
    client.close()
    if how == "late" or (is_strict and (got.count(b"\r\n\r\n") != 2 or b"\nkaiso " not in got)):
        raise Violation(f"details: {got!r}, then {how}")
    client = world.connect()
    got, how = pump(client, b".kaiso/list\r\n")
    client.close()
    if how == "late" or (is_strict and b"\r\ntcp\ttcp\t\r\n" not in got):
        raise Violation(f"details: {got!r}, then {how}")


def listed_then_opened(world, is_strict, error):
    """All in one segment: each line is taken exactly."""
    client = world.connect()
    got, how = pump(client, b"dir/\n\necho\n" + SMALL)
    client.close()
    calls = world.calls("echo")
    judge_service(calls, SMALL, "lists, then echo", is_strict, False)
    if calls and calls[0].received == SMALL and how == "end" and not got.endswith(SMALL):
        raise Violation(f"lists, then echo: {len(got)} bytes, then a clean end")
    if how == "late" or (is_strict and not got.endswith(b"\r\n\r\n" + SMALL)):
        raise Violation(f"lists, then echo: {got[-60:]!r}, then {how}")


def handed_over_after_a_verdict(world, is_strict, error):
    """Who was told "+" must not see a clean end instead of the service."""
    client = world.connect()
    got, how = pump(client, b".kaiso/open hand\n" + SMALL)
    client.close()
    calls = world.calls(".one")
    judge_service(calls, SMALL, "open hand", is_strict, True)
    if not got.startswith(b"-") or calls or is_strict:
        judge_client(got, how, b"+\r\n" + SMALL, "open hand", is_strict, calls)


def handed_over(world, is_strict, error):
    for line, name in (("hand", ".one"), ("hand", ".one"), ("lasting", ".lasting"), ("lasting", ".lasting"),
                       ("lasting", ".lasting"), ("knock", ".knock")):
        relay(world, is_strict, error, line, name, SMALL)
    world.calls("door")


def client_breaks_off(world, is_strict, error):
    """A reset on one side arrives on the other as a reset."""
    client = world.connect()
    say(client, b"tcp\n" + SMALL)
    got, how = pump(client, end=False, enough=len(SMALL))
    if not SMALL.startswith(got) or (is_strict and got != SMALL):
        raise Violation(f"before a reset: {got!r}, then {how}")
    if how == "enough":
        reset(client)
    client.close()
    calls = world.calls("tcp")
    if any(call.received and call.ended == "end" for call in calls) or (is_strict and len(calls) != 1):
        raise Violation("the client's reset came as a clean end to the service")


def service_breaks_off(world, is_strict, error):
    client = world.connect()
    got, how = pump(client, b"breaks\n0123456789", end=False)
    client.close()
    calls = world.calls("breaks")
    if how == "late" or not b"short".startswith(got) or (is_strict and (got != b"short" or len(calls) != 1)):
        raise Violation(f"the service's reset: {got!r}, then {how}")
    if how == "end" and any(call.received for call in calls):
        raise Violation(f"the service's reset came as a clean end to the client, after {got!r}")


def clients_that_vanish(world, is_strict, error):
    for data in (b"", b"ech", b"echo", b"\n\n\n", b"x" * 5000):
        client = world.connect()
        say(client, data)
        reset(client)
        client = world.connect()
        got, how = pump(client, data)
        client.close()
        if how == "late":
            raise Violation(f"a client that left after {data[:10]!r} is kept")


def descriptions_change(world, is_strict, error):
    for name in ("echo", "tcp", "echo"):
        target = ".hidden-echo" if name == "echo" else f"127.0.0.1:{world.services['tcp'].listener.getsockname()[1]}"
        world.router.describe("changing", target + "\n")
        relay(world, is_strict, error, "changing", ".hidden-echo" if name == "echo" else "tcp", SMALL)
    os.unlink(world.router.path("changing"))
    client = world.connect()
    got, how = pump(client, b"changing\n")
    client.close()
    judge_answer(got, how, b"", "what is gone", is_strict)


def no_descriptors(world, is_strict, error):
    """The limit is reached: clients are refused, and sessions go on."""
    first_free = max(process.list_fds(world.router.pid)) + 1
    world.limit_descriptors(first_free)
    try:
        clients = [world.connect() for _ in range(6)]
        ends = [pump(client, b"echo\n" + SMALL, patience=0.4) for client in clients]
    finally:
        world.limit_descriptors(4096)
    for client, (got, how) in zip(clients, ends):
        if how == "late":
            got, how = pump(client)
        client.close()
        if how == "late" or not SMALL.startswith(got):
            raise Violation(f"without descriptors: {got!r}, then {how}")
    world.calls("echo")


def peers_are_checked(world, is_strict, error):
    """The router looks now and then whether the peers of sessions are still there."""
    client = world.connect()
    say(client, b"tcp-late\n" + peers.SOURCE[:1])
    time.sleep(1.3)
    got, how = pump(client, peers.SOURCE[1:100_000])
    client.close()
    calls = world.calls("tcp-late")
    judge_service(calls, peers.SOURCE[:100_000], "a long session", is_strict, True)
    judge_client(got, how, b"100000", "a long session", is_strict, calls)


RUNTIME = (relay_unix, relay_tcp, relay_small, relay_from_unix, relay_by_file, relay_by_name, relay_again, download, upload,
           opened, refused, listed, listed_in_detail, listed_then_opened, handed_over_after_a_verdict, handed_over,
           client_breaks_off, service_breaks_off, clients_that_vanish, descriptions_change, no_descriptors)
SLOW = (peers_are_checked,)


# ---- several targets, options, mounts, DNS, front ends

def chosen(world, is_strict, error):
    """The first target is dead; whichever of the others is reached, the bytes are right and go there once."""
    for line, names in (("chosen", ("other", ".second")), ("few", (".second",))):
        client = world.connect()
        got, how = pump(client, line.encode() + b"\r\n" + SMALL)
        client.close()
        calls = [call for call in world.calls(*names) if is_strict or call.received]
        judge_service(calls, SMALL, line, is_strict, False)
        judge_client(got, how, SMALL, line, is_strict, calls, False)
        for name in names:
            world.calls(name)


def handed_to_the_second(world, is_strict, error):
    client = world.connect()
    got, how = pump(client, b"handed\n" + SMALL)
    client.close()
    calls = world.calls(".one")
    judge_service(calls, SMALL, "handed", is_strict, True)
    judge_client(got, how, SMALL, "handed", is_strict, calls)


def guarded(world, is_strict, error):
    relay(world, is_strict, error, "guarded/echo", "guarded/echo", SMALL)
    world.router.describe("guarded/.kaiso", "deny 127.0.0.1\n")
    client = world.connect()
    got, how = pump(client, b".kaiso/open guarded/echo\n" + SMALL)
    client.close()
    calls = world.calls("guarded/echo")
    world.router.describe("guarded/.kaiso", "allow 127.0.0.0/8 192.0.2.7\nidle-timeout 20s\n")
    if calls or got.startswith(b"+"):
        raise Violation(f"who may not is let in: {got!r}, {len(calls)} calls")
    judge_answer(got, how, b"-not-found no such service\r\n", "who may not", is_strict)


def mounted(world, is_strict, error):
    relay(world, is_strict, error, "mounted/echo", "echo", SMALL)
    client = world.connect()
    got, how = pump(client, b"mounted/dir/\n")
    client.close()
    judge_list(got, how, b"dir/deep/echo\r\n\r\n", "the list of mounted/dir/", is_strict,
               error is not None and error not in EXHAUSTION)


def served_by_dns(world, is_strict, error):
    """Where c-ares takes a failure for the answer that there is no address, that holds for a second."""
    end = time.monotonic() + 1.5
    while True:
        client = world.connect()
        got, how = pump(client, b"served\r\n" + SMALL)
        client.close()
        calls = [call for call in world.calls("other") if is_strict or call.received]
        if calls or not is_strict or time.monotonic() > end:
            break
        time.sleep(0.1)
    judge_service(calls, SMALL, "served", is_strict, True)
    judge_client(got, how, SMALL, "served", is_strict, calls, can_reset(world, "other", error))


PROXIED = bytes.fromhex("0d0a0d0a000d0a515549540a 2111000c c0000207 c0000209 0400 0050")


def came_by_a_front(world, is_strict, error):
    """The header is taken whole and passed on whole, or nothing is."""
    client = world.connect(is_unix=True)
    got, how = pump(client, PROXIED + b"front\r\n" + SMALL)
    client.close()
    calls = world.calls("other")
    judge_service(calls, PROXIED + SMALL, "front", is_strict, True)
    judge_client(got, how, PROXIED + SMALL, "front", is_strict, calls, False)
    client = world.connect(is_unix=True)
    got, how = pump(client, b"echo\r\n" + SMALL)
    client.close()
    if got or world.calls("echo"):
        raise Violation(f"a front end without a header is let in: {got!r}")


ROUTED = (chosen, handed_to_the_second, guarded, mounted, served_by_dns, came_by_a_front)


# ---- what an operator sees

def ask_control(world, lines, is_strict):
    """The answers, as what their JSON says; each whole, whatever fails, but perhaps not all of them."""
    client = world.connect_control()
    got, how = pump(client, lines)
    client.close()
    if how == "late":
        raise Violation(f"the control socket: late, after {got[-100:]!r}")
    whole, _, rest = got.rpartition(b"\n")
    try:
        answers = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise Violation(f"the control socket: {got[-200:]!r}: {error}") from None
    if is_strict and (rest or len(answers) != lines.count(b"\n")):
        raise Violation(f"the control socket: {len(answers)} answers, then {rest!r}, {how}")
    return answers


def asked(world, is_strict, error):
    answers = ask_control(world, b"status\nsessions\nclose 9-9\nstatus\nwhatever\n", is_strict)
    if is_strict and (len(answers[1]["sessions"]) < 2 or "error" not in answers[2] or "error" not in answers[4]):
        raise Violation(f"the control socket: {answers}")


def asked_by_many(world, is_strict, error):
    """More than it takes at a time; some leave before their answer."""
    clients = [world.connect_control() for _ in range(20)]
    for client in clients:
        say(client, b"sessions\n")
    for client in clients[::3]:
        client.close()
    for number, client in enumerate(clients):
        if number % 3:
            _, how = pump(client)
            client.close()
            if how == "late":
                raise Violation("the control socket: a client waits")


def closed(world, is_strict, error):
    client = world.connect()
    say(client, b"tcp\n" + SMALL)
    got, how = pump(client, end=False, enough=len(SMALL))
    if is_strict and got != SMALL:
        raise Violation(f"before it is closed: {got!r}, {how}")
    name = "%s:%d" % client.getsockname()
    open_ones = [one for answer in ask_control(world, b"sessions\n", is_strict) for one in answer.get("sessions", ())]
    ids = [one["id"] for one in open_ones if one["client"] == name]
    if is_strict and len(ids) != 1:
        raise Violation(f"{name} is not among {open_ones}")
    answers = ask_control(world, f"close {ids[0]}\n".encode(), is_strict) if ids else []
    got, how = pump(client, patience=None if answers == [{"closed": True}] else 0.2)
    client.close()
    if answers == [{"closed": True}] and (got or how != "reset"):
        raise Violation(f"a session that was closed: {got!r}, {how}")
    world.calls("tcp")


def browsed(world, is_strict, error):
    for path, expected in (("/metrics", b"kaiso_sessions"), ("/status.json?sessions", b'"sessions"'), ("/healthz", b"ok"),
                           ("/", b"<html"), ("/nothing", b"404")):
        client = world.connect_http()
        got, how = pump(client, f"GET {path} HTTP/1.1\r\nHost: {world.http_address}\r\nConnection: close\r\n\r\n".encode(),
                        end=False, patience=HTTP_PATIENCE)
        client.close()
        if how == "late" or (is_strict and expected not in got):
            raise Violation(f"{path}: {got[-300:]!r}, then {how}")
        head, _, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if how == "end" and length and len(body) > int(length[1]):
            raise Violation(f"{path}: {len(body)} of {int(length[1])} bytes")


def watched(world, is_strict, error):
    """The sign of life comes again."""
    world.told()
    end = time.monotonic() + 4 * world.WATCHDOG_SECONDS
    while b"WATCHDOG=1" not in world.told():
        if time.monotonic() > end:
            if is_strict:
                raise Violation("the service manager hears nothing")
            return
        time.sleep(0.01)


# What passes a place first is what judges its faults.
OPERATED = (watched, asked, asked_by_many, closed, browsed, relay_tcp)


# ---- kaiso expose

def exposed(world, is_strict, error, name, data, expected):
    client = world.connect(name=name)
    got, how = pump(client, data)
    client.close()
    calls = world.calls(name)
    if not is_strict:  # asked again without a verdict, over a connection of its own
        calls = [call for call in calls if call.received or call.sent]
    judge_service(calls, data, f"exposed {name}", is_strict, world.services[name].is_tcp)
    judge_client(got, how, expected, f"exposed {name}", is_strict, calls)


def exposed_relay(world, is_strict, error):
    exposed(world, is_strict, error, "echo", BULK, BULK)
    exposed(world, is_strict, error, "tcp", BULK, BULK)


def exposed_upload(world, is_strict, error):
    exposed(world, is_strict, error, "late", peers.SOURCE, b"%d" % len(peers.SOURCE))


def exposed_download(world, is_strict, error):
    client = world.connect(name="source")
    time.sleep(0.03)
    got, how = pump(client, end=False)
    client.close()
    judge_client(got, how, peers.SOURCE, "exposed source", is_strict, world.calls("source"))


def exposed_reset(world, is_strict, error):
    client = world.connect(name="breaks")
    got, how = pump(client, b"0123456789", end=False)
    client.close()
    calls = world.calls("breaks")
    if how == "late" or not b"short".startswith(got) or (is_strict and (got != b"short" or how != "reset")):
        raise Violation(f"the service's reset: {got!r}, then {how}")
    if how == "end" and any(call.received for call in calls):
        raise Violation(f"the service's reset came as a clean end to the client, after {got!r}")


def exposed_refused(world, is_strict, error):
    client = world.connect(name="nothing")
    got, how = pump(client, SMALL)
    client.close()
    judge_answer(got, how, b"", "exposed nothing", is_strict)


EXPOSED = (exposed_relay, exposed_upload, exposed_download, exposed_reset, exposed_refused)
