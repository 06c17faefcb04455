"""Three hosts, each with a member of an etcd, a mirror and a router: all serve the same names, and a host that dies takes
nobody along. Clients and services are on a fourth."""

import signal
import statistics
import subprocess
import sys

import pytest

from harness.etcd import Etcd, Mirror
from harness.hosts import Host
from harness.services import Service, echo
from harness.stream import Stream
from harness.wait import DEADLINE, wait_until

PREFIX = "/kaiso/"
OUTSIDE = "10.37.0.254"
ROUNDS = 20


class Cluster:
    """The hosts 1 to 3 have the addresses 10.37.0.1 to .3; their cables end in a switch, which the fourth host has."""

    def __init__(self, new_router):
        self.new_router = new_router
        self.outside = Host()
        if subprocess.run([*self.outside.words, "ip", "link", "add", "switch", "type", "bridge"], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.outside.close()
            pytest.skip("this kernel has no switch (bridge)")
        self.outside.ip("address", "add", f"{OUTSIDE}/24", "dev", "switch")
        self.outside.ip("link", "set", "switch", "up")
        self.addresses = [f"10.37.0.{number}" for number in (1, 2, 3)]
        self.hosts = [self._host(address) for address in self.addresses]
        members = ",".join(f"host-{address}=http://{address}:2380" for address in self.addresses)
        self.etcds = [Etcd("--initial-cluster-token", "hosts", name=f"host-{address}", address=address, ports=(2379, 2380),
                           cluster=members, wrapper=host.words, dial=self._dial)
                      for address, host in zip(self.addresses, self.hosts)]
        for etcd in self.etcds:
            etcd.start(awaits_ready=False)
        for etcd in self.etcds:
            etcd.await_ready()
        self.routers = [self._router(number) for number in range(3)]
        self.mirrors = [self._mirror(number) for number in range(3)]

    def _host(self, address):
        host = Host(self.outside)
        port = f"to-{address}"
        self.outside.ip("link", "add", port, "type", "veth", "peer", "name", "cable", "netns", str(host.pid))
        self.outside.ip("link", "set", port, "master", "switch", "up")
        host.ip("address", "add", f"{address}/24", "dev", "cable")
        host.ip("link", "set", "cable", "up")
        return host

    def _dial(self, address, port):
        return self.outside.socket("connect", address, port)

    def _router(self, number, **how):
        return self.new_router("--threads", "1", listen=(f"{self.addresses[number]}:37812",),
                               wrapper=self.hosts[number].words, **how)

    def _mirror(self, number):
        """It asks the member of its own host first."""
        endpoints = ",".join(etcd.url for etcd in (self.etcds * 2)[number:number + 3])
        return self.new_router(endpoints, PREFIX, self.routers[number].path("cluster").decode(), "--timeout", "1s",
                               kind=Mirror, wrapper=self.hosts[number].words)

    def connect(self, number):
        return self.routers[number].keep(Stream(self._dial(self.addresses[number], 37812)))

    def service(self, handler, port):
        listener = self.outside.socket("listen", OUTSIDE, port)
        return self.routers[0].keep(Service(listener, handler))

    def listed(self, number):
        with Stream(self._dial(self.addresses[number], 37812)) as client:
            client.line("").end()
            return client.receive_all()

    def kill(self, number):
        """All of the host at once, and no word of it gets out."""
        self.hosts[number].ip("link", "set", "cable", "down")
        self.etcds[number].stop(signal.SIGKILL)
        for one in (self.mirrors[number], self.routers[number]):
            one.is_stopped = True
            one.process.kill()
            one.process.wait(DEADLINE)

    def raise_from_the_dead(self, number):
        """With the disk that it had."""
        self.hosts[number].ip("link", "set", "cable", "up")
        self.etcds[number].start(awaits_ready=False)
        self.routers[number] = self._router(number, services=self.routers[number].services)
        self.routers[number].services = self.routers[number].services_argument
        self.mirrors[number] = self._mirror(number)

    def close(self):
        for etcd in self.etcds:
            etcd.close()
        for host in (*self.hosts, self.outside):
            host.close()


@pytest.fixture
def clusters():
    made = []
    yield made
    for one in made:
        one.close()


@pytest.fixture
def cluster(clusters, new_router):
    """Ends behind its routers."""
    clusters.append(Cluster(new_router))
    return clusters[0]


def test_a_host_dies(cluster):
    """Its sessions end; those of the others go on, and so does everything else. When it is back it has what it missed."""
    service = cluster.service(echo, 8000)
    cluster.etcds[0].put(PREFIX + "echo", f"{service.address}\n")
    cluster.etcds[1].put(PREFIX + "old", f"{service.address}\n")
    for mirror in cluster.mirrors:
        mirror.wait_contents({"echo": f"{service.address}\n", "old": f"{service.address}\n"})
    sessions = [cluster.connect(number).line("cluster/echo").exchange(b"before") for number in range(3)]
    assert {cluster.listed(number) for number in range(3)} == {b"cluster/echo\r\ncluster/old\r\n\r\n"}
    leader = next((number for number, etcd in enumerate(cluster.etcds) if is_leader(etcd)), 0)
    cluster.kill(leader)
    others = [number for number in range(3) if number != leader]
    for number in others:
        sessions[number].exchange(b"meanwhile")
    wait_until(lambda: try_put(cluster.etcds[others[0]], PREFIX + "new", f"{service.address}\n"), "a new leader")
    cluster.etcds[others[1]].delete(PREFIX + "old")
    for number in others:
        cluster.mirrors[number].wait_contents({"echo": f"{service.address}\n", "new": f"{service.address}\n"})
        cluster.connect(number).line("cluster/new").exchange(b"after")
        sessions[number].exchange(b"after")
    cluster.raise_from_the_dead(leader)
    assert cluster.mirrors[leader].contents() == {name: f"{service.address}\n".encode() for name in ("echo", "new")}
    cluster.connect(leader).line("cluster/new").exchange(b"again")


def is_leader(etcd):
    status = etcd.ask("maintenance/status")
    return status["leader"] == status["header"]["member_id"]


def try_put(etcd, key, value):
    try:
        return etcd.put(key, value)
    except Exception:
        return None


def test_member_that_is_cut_off(cluster):
    """Its host is reached, but it has lost the others: the mirror beside it asks another one, for what is new."""
    mirror = cluster.mirrors[0]
    cut_off = cluster.etcds[0].peer_port
    for table in ("INPUT", "OUTPUT"):
        for word in ("--dport", "--sport"):
            block(cluster.hosts[0], table, word, cut_off)
    mirror.wait_log(level="warning", msg="etcd is away", endpoint=cluster.etcds[0].url)
    mirror.wait_log(msg="etcd is back")
    cluster.etcds[1].put(PREFIX + "new", "10.0.0.1:80\n")
    mirror.wait_content("new", "10.0.0.1:80\n")


def block(host, table, word, port):
    """By nftables: packets from or to that port, in or out."""
    chain, field = table.lower(), word.strip("-")
    rules = f"add table inet kaiso; add chain inet kaiso {chain} {{ type filter hook {chain} priority 0; }}; " \
            f"add rule inet kaiso {chain} tcp {field} {port} drop"
    result = subprocess.run([*host.words, "nft", rules], capture_output=True, text=True, timeout=DEADLINE, check=False)
    if result.returncode != 0:
        pytest.skip(f"this system lets nobody block packets: {result.stderr}")


# Puts services, and asks all routers for each until all have it. Prints how long that took, in ms: the put, all of it.
PROBE = """
import base64, http.client, json, socket, sys, threading, time
etcd, prefix, target, rounds, *routers = sys.argv[1:]
address, _, port = etcd.rpartition(":")
connection = http.client.HTTPConnection(address, int(port), timeout=10)

def encoded(text):
    return base64.b64encode(text.encode()).decode()

def ask_until_served(router, name, served):
    while True:
        with socket.create_connection((router, 37812), 10) as sock:
            sock.sendall(f"cluster/{name}\\r\\n".encode())
            try:
                if sock.recv(5) == b"hello":
                    served.append(time.monotonic())
                    return
            except ConnectionResetError:
                pass

for number in range(int(rounds)):
    name, served = f"probe-{number}", []
    askers = [threading.Thread(target=ask_until_served, args=(router, name, served)) for router in routers]
    for asker in askers:
        asker.start()
    time.sleep(0.02)
    start = time.monotonic()
    connection.request("POST", "/v3/kv/put", json.dumps({"key": encoded(prefix + name), "value": encoded(target)}))
    connection.getresponse().read()
    put = time.monotonic()
    for asker in askers:
        asker.join()
    print((put - start) * 1000, (max(served) - start) * 1000)
"""


def test_new_service_is_reachable_everywhere(cluster):
    """How long it takes is only told (pytest -s): from before it is put until all three routers have connected to it."""
    service = cluster.service(lambda stream: stream.send(b"hello"), 8000)
    result = subprocess.run([*cluster.outside.words, sys.executable, "-c", PROBE, f"{cluster.addresses[0]}:2379", PREFIX,
                             service.address, str(ROUNDS), *cluster.addresses],
                            capture_output=True, text=True, timeout=3 * DEADLINE, check=False)
    assert result.returncode == 0, result.stderr
    puts, served = zip(*((float(word) for word in line.split()) for line in result.stdout.splitlines()))
    assert len(served) == ROUNDS
    print(f"\nnew service reachable through 3 routers after {statistics.median(served):.1f} ms (median of {ROUNDS}, "
          f"{min(served):.1f} to {max(served):.1f}); of that etcd's put {statistics.median(puts):.1f} ms")
