"""What happens to the routers, their services and their directories while clients are at it."""

import contextlib
import signal
import socket
import threading
import time

UPGRADE_PAUSE = (0.2, 4)
DIRECTORY_PAUSE = (0.1, 1.5)
SERVICE_PAUSE = (0.3, 3)
LIMIT_PAUSE = (3, 12)
BURST = 120


class Chaos:
    """One thread for each sort of trouble, so that they meet in every way."""

    def __init__(self, soak, phase, sorts=None):
        self.soak, self.world, self.fleet = soak, soak.world, soak.fleet
        self.threads = []
        for name, action, pause in (("upgrades", self.upgrade, UPGRADE_PAUSE),
                                    ("directories", self.change_directory, DIRECTORY_PAUSE),
                                    ("services", self.hurt_service, SERVICE_PAUSE),
                                    ("more services", self.hurt_service, SERVICE_PAUSE),
                                    ("limits", self.limit, LIMIT_PAUSE)):
            if sorts and name.split()[-1] not in sorts.split(","):
                continue
            rng = self.world.chance(f"{name} {phase}")
            self.threads.append(threading.Thread(target=self._run, args=(name, action, pause, rng), daemon=True))
            self.threads[-1].start()

    def _run(self, name, action, pause, rng):
        while not self.world.is_over.wait(rng.uniform(*pause)):
            self.world.gate.wait()
            try:
                action(rng)
            except Exception as error:
                if self.world.is_over.is_set() and isinstance(error, ProcessLookupError):
                    return
                self.world.fail(f"{name}: {type(error).__name__}: {error}")

    def join(self):
        for thread in self.threads:
            thread.join()

    # ---- routers

    def upgrade(self, rng):
        router = rng.choice(self.soak.changing)
        router.upgrade(rng.choice((1, 1, 1, 2)))
        self.world.count("upgrades")
        self.world.count(f"upgrades of {router.label}")

    def limit(self, rng):
        rng.choice((self.shorten, self.shorten, self.stop_reading_log, self.burst))(rng)

    def shorten(self, rng):
        """So few descriptors that not all who come find one."""
        router = rng.choice(self.world.routers)
        router.short.open()
        try:
            router.shorten(sum(router.fds().values()) + rng.randrange(-10, 12))
            self.world.count("descriptors short")
            time.sleep(rng.uniform(0.5, 3))
        finally:
            router.lengthen()
            router.short.close()

    def stop_reading_log(self, rng):
        rng.choice(self.world.routers).stop_reading_log(rng.uniform(0.5, 2))
        self.world.count("logs not read")

    def burst(self, rng):
        """Many at once, who say nothing and leave."""
        with contextlib.ExitStack() as stack:
            host, _, port = rng.choice(self.soak.ways[:1] + self.soak.ways[2:3]).address.rpartition(":")
            for _ in range(BURST):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=30)).setblocking(False)
            self.world.is_over.wait(rng.uniform(0, 2))
        self.world.count("bursts")

    # ---- directories

    def change_directory(self, rng):
        action = rng.choice(("link", "link", "exchange", "exchange", "exchange", "gap", "come", "come", "go", "go",
                             "options", "options"))
        name = f"come/{rng.randrange(20)}"
        if action == "link":
            self.fleet.turn_link()
            self.world.count("links turned")
        elif action == "options":
            self.change_options(rng)
        elif action == "exchange":
            self.fleet.exchange()
            self.world.count("directories exchanged")
        elif action == "gap":
            if rng.random() < 0.3:
                self.fleet.leave_gap(rng.uniform(0, 0.3))
                self.world.count("directory away")
        elif action == "come":
            if rng.random() < 0.5:
                self.fleet.put_link(name, "../unix-steady")
            else:
                self.fleet.put(name, rng.choice((self.fleet.by_name["tcp"].description, "nonsense:\n", "")))
            self.world.count("entries put")
        else:
            self.fleet.take_away(name)

    def change_options(self, rng):
        """None that would refuse anybody."""
        lines = [f"balance {rng.choice(('first', 'round-robin', 'least-sessions'))}", "max-sessions 5000",
                 "connect-timeout 8s", "deny 192.0.2.1", "about what is deep", "# and nothing else"]
        if rng.random() < 0.1:
            self.fleet.take_away("deep/.kaiso")
        else:
            self.fleet.set_options(rng.sample(lines, rng.randrange(len(lines) + 1)))
        self.world.count("options changed")

    # ---- services

    def hurt_service(self, rng):
        service = rng.choice(self.fleet.mortals)
        with service.lock:
            rng.choice((self.kill, self.kill, self.hang, self.remove))(rng, service)

    def kill(self, rng, service):
        service.kill()
        try:
            time.sleep(rng.choice((0, 0, 0.1, 1, 3)))
        finally:
            service.revive()
        self.world.count("services killed")

    def hang(self, rng, service):
        service.signal(signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(0.2, 4))
        finally:
            service.signal(signal.SIGCONT)
        self.world.count("services stopped")
        if rng.random() < 0.2:
            service.signal(signal.SIGSTOP)
            self.kill(rng, service)

    def remove(self, rng, service):
        """Its name goes, and comes back; whoever is connected stays so."""
        service.absent.open()
        self.fleet.take_away(service.name)
        time.sleep(rng.uniform(0, 1))
        if service.kind == "unix":
            self.fleet.place_socket(service)
        else:
            self.fleet.put(service.name, service.description)
        service.absent.close()
        self.world.count("services removed")
