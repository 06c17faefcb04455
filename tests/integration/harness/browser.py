"""Chromium without a screen, driven through its DevTools protocol over two pipes (--remote-debugging-pipe)."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .router import clean_environment
from .wait import Overdue

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--no-default-browser-check", "--remote-debugging-pipe",
]
DEADLINE = 120.0  # it starts a dozen processes, on a machine that may have others


def _pipe():
    """Its ends have numbers above those that the browser wants them to have: 3 and 4."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One page of one browser. Requests, and complaints of the console, are kept in the order of their coming."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="kaiso-browser-")
        self.requests = []  # addresses
        self.complaints = []  # errors and warnings of the console, refusals of the policy, exceptions
        self._last_id = 0
        self._buffer = b""
        its_input, self._to = _pipe()
        self._from, its_output = _pipe()
        words = ["bash", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "bash", "chromium", *FLAGS,
                 f"--user-data-dir={self.directory}/profile", "about:blank"]
        with open(f"{self.directory}/log", "wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=(its_input, its_output), start_new_session=True,
                                            env=clean_environment(HOME=self.directory))
        os.close(its_input)
        os.close(its_output)
        os.set_blocking(self._from, False)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    # ---- the protocol

    def _receive(self, end):
        while b"\0" not in self._buffer:
            if time.monotonic() > end:
                log = Path(self.directory, "log").read_text(encoding="utf-8", errors="replace")
                raise Overdue(f"the browser does not answer:\n{log[-4000:]}")
            try:
                chunk = os.read(self._from, 1 << 20)
            except BlockingIOError:
                time.sleep(0.002)
                continue
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data):]
        end = time.monotonic() + DEADLINE
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._take_event(answer)

    def _take_event(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
            self.complaints.append(parameters["entry"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error", "assert"):
            self.complaints.append(parameters)

    # ---- what a person does

    def open(self, address):
        self.call("Page.navigate", url=address)

    def run(self, script):
        """The value of a JavaScript expression, or of the promise that it is."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, what=None):
        """Until the expression gives something true; returns that."""
        end = time.monotonic() + DEADLINE
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise Overdue(f"waited for {what or script}; the page says:\n{self.run('document.body.innerText')}")
            time.sleep(0.05)
        return value

    def press(self, key, code=None, number=0, text=None):
        more = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode=number,
                      **(more if kind == "keyDown" else {}))

    def tab(self):
        self.press("Tab", number=9)

    def space(self):
        self.press(" ", code="Space", number=32, text=" ")

    def resize(self, width, height, is_mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=is_mobile)

    def colours(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path=None):
        """PNG, of the whole page; kept at path when there is one."""
        data = base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        if path:
            Path(path).write_bytes(data)
        return data

    def accessibility(self):
        """[(role, name)] of what a screen reader is told, in its order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes
                if not node["ignored"] and "role" in node]

    def close(self):
        try:
            os.close(self._to)  # it ends when its pipe does
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            os.close(self._from)
            shutil.rmtree(self.directory, ignore_errors=True)
