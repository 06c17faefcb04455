"""The status page in a real browser (Chromium, without a screen): what it shows, to whom, and what it asks for."""

import os
import signal
import threading

import pytest

from harness.browser import Browser
from harness.stream import Stream

pytestmark = pytest.mark.skipif(os.environ.get("KAISO_BUILD", "normal") != "normal",
                                reason="the page is the same in every build")

HOSTILE = '"><img src=x onerror=alert(1)>\\u003cb>'

# What is readable: the contrast of every text against what is behind it (WCAG 2.1, 1.4.3).
LOW_CONTRAST = """(() => {
    const number = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => number(colour).slice(0, 3).map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (number(colour)[3] !== 0) return colour;
        }
        return getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "rgb(0,0,0)" : "rgb(255,255,255)";
    };
    const low = [];
    for (const node of document.querySelectorAll("body *")) {
        if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !node.offsetParent) continue;
        const [one, other] = [light(getComputedStyle(node).color), light(behind(node))].sort();
        const [dark, bright] = one < other ? [one, other] : [other, one];
        const ratio = (bright + 0.05) / (dark + 0.05);
        if (ratio < 4.5) low.push(`${node.tagName} ${node.textContent.trim()}: ${ratio.toFixed(2)}`);
    }
    return low;
})()"""

TOO_WIDE = """[...document.querySelectorAll("body *")].filter((node) => node.offsetParent &&
    node.tagName !== "CAPTION" && node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map((node) => node.outerHTML.slice(0, 100))"""


def cell(service, column):
    """The text of a service's row."""
    return (f"[...document.querySelectorAll('#services tbody tr')].filter((row) => row.children[0].textContent === "
            f"{service!r}).map((row) => row.children[{column}].textContent)[0]")


def first_column(table):
    return f"[...document.querySelectorAll('#{table} tbody th')].map((cell) => cell.textContent).join()"


FOCUS = "document.activeElement.textContent || document.activeElement.id"


@pytest.fixture
def browser():
    browser = Browser()
    yield browser
    browser.close()


class Traffic:
    """A client that has a service echo, until the end."""

    def __init__(self, client: Stream):
        self.client = client
        self.must_end = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.must_end.wait(0.02):
            self.client.exchange(b"x" * 1000)

    def end(self):
        self.must_end.set()
        self.thread.join()


def test_the_page(new_router, browser):
    """One test, since a browser takes its time to start."""
    router = new_router("--http", "127.0.0.1:0")
    for name in ("alpha", "beta", HOSTILE):
        router.echo(name)
    router.describe("broken", "127.0.0.1:1\n")
    clients = [router.open(name).exchange(b"hello") for name in ("alpha", "alpha", "beta", HOSTILE)]
    router.open("broken").expect_closed()
    address = "http://" + router.log.find(msg="ready")[0]["http"]
    browser.resize(1280, 900)
    browser.colours("light")
    browser.open(address + "/")
    check_what_it_shows(browser, router, clients)
    check_that_it_goes_on(browser, router, clients)
    check_the_keyboard(browser)
    check_what_is_read_out(browser)
    check_looks(browser)
    check_the_end(browser, router)
    assert set(browser.requests) <= {address + "/", address + "/status.json?sessions"}, "it asks others"
    assert [one for one in browser.complaints if "ERR_" not in str(one)] == []


def check_what_it_shows(browser, router, clients):
    browser.wait("document.querySelectorAll('#services tbody tr').length === 4", "the services")
    assert browser.run("document.getElementById('state').textContent") == "running"
    assert str(router.pid) in browser.run("document.getElementById('about').textContent")
    assert router.address in browser.run("document.getElementById('about').textContent")
    assert browser.run(cell("alpha", 1)) == "in use"
    assert browser.run(cell("alpha", 3)) == "2"
    assert browser.run(cell("broken", 5)) == "1"
    assert browser.run(cell(HOSTILE, 2)) == "unix", "a name is a text"
    assert browser.run("document.querySelectorAll('main img, main b').length") == 0
    shown = browser.run(first_column("sessions")).split(",")
    assert sorted(shown) == sorted(client.name for client in clients)


def check_that_it_goes_on(browser, router, clients):
    """While traffic runs: rates, plots, what comes and what goes."""
    browser.run("window.mark = document.querySelector('#services tbody tr')")
    traffic = Traffic(clients[0])
    browser.wait(cell("alpha", 6) + ".match(/[1-9]/) && " + cell("alpha", 7) + ".match(/k?B.s/)", "a rate")
    assert browser.run(cell("beta", 6)) == "0\u00a0B/s"
    browser.wait("document.querySelector('polyline.first').getAttribute('points').split(' ').length >= 3", "the plot")
    assert browser.run("new Set(document.querySelector('polyline.first').getAttribute('points').split(' ')"
                       ".map((point) => point.split(',')[1])).size") > 1, "the line is flat"
    traffic.end()
    router.open("broken").expect_closed()
    browser.wait(cell("broken", 1) + " === 'failing'", "a service that fails")
    clients.pop().end().expect_end()
    browser.wait("document.querySelectorAll('#sessions tbody tr').length === 3", "a session's end")
    browser.wait(cell(HOSTILE, 1) + " === 'idle'", "a service at rest")
    assert browser.run("window.mark.isConnected"), "rows are made anew, and whoever reads them loses his place"


def check_the_keyboard(browser):
    browser.run("document.activeElement.blur()")
    browser.tab()
    assert browser.run(FOCUS) == "Pause"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.space()
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert browser.run("document.getElementById('state').textContent") == "paused"
    browser.space()
    browser.wait("document.getElementById('state').textContent === 'running'", "it to go on")
    browser.tab()
    assert browser.run(FOCUS) == "Service"
    before = browser.run(first_column("services"))
    browser.space()
    assert browser.run("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    assert browser.run(first_column("services")).split(",") == before.split(",")[::-1]
    for _ in range(3):
        browser.tab()
    assert browser.run(FOCUS) == "Open"
    browser.space()
    assert browser.run(first_column("services")).startswith("alpha,")
    assert browser.run("document.querySelectorAll('#services [aria-sort]').length") == 1
    while browser.run(FOCUS) != "filter":
        browser.tab()
        assert browser.run("document.activeElement !== document.body"), "the filter is out of reach"
    for letter in "beta":
        browser.press(letter, text=letter)
    assert browser.run("document.querySelectorAll('#sessions tbody tr').length") == 1
    browser.run("document.activeElement.select()")
    browser.press("Backspace", number=8)
    assert browser.run("document.querySelectorAll('#sessions tbody tr').length") == 3


def check_what_is_read_out(browser):
    told = browser.accessibility()
    for role, name in (("status", ""), ("button", "Pause"), ("heading", "Services"), ("searchbox", "Only with"),
                       ("table", "Services that were asked for since the start"), ("table", "Clients that are connected"),
                       ("rowheader", "alpha"), ("columnheader", "From clients"), ("cell", "in use"), ("main", "")):
        assert (role, name) in told, (role, name)
    plots = [name for role, name in told if role in ("image", "img")]
    assert len(plots) == 4 and all("in the last" in name for name in plots)
    assert plots[0].startswith("Bytes in the last ") and "from clients" in plots[0]
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.run("document.querySelectorAll('[aria-live], [role=status]').length") == 1, "numbers are not read out"


def check_looks(browser):
    pictures = {}
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        assert browser.run(LOW_CONTRAST) == [], scheme
        for width in (1280, 360, 320):
            browser.resize(width, 800, is_mobile=width < 500)
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run(TOO_WIDE) == [], width
            keep = os.environ.get("KAISO_SCREENSHOTS")
            pictures[scheme, width] = browser.screenshot(keep and f"{keep}/{scheme}-{width}.png")
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert pictures["light", 360] != pictures["dark", 360]
    roles = [role for role, _ in browser.accessibility()]
    assert roles.count("table") == 2 and "rowheader" in roles, "as blocks the tables are tables no more"


def check_the_end(browser, router):
    router.signal(signal.SIGTERM)
    browser.wait("document.getElementById('state').textContent === 'draining'", "the word that it drains")
    router.signal(signal.SIGTERM)
    router.wait_exit()
    browser.wait("document.getElementById('state').textContent === 'no answer'", "the word that nobody answers")
    assert "no answer" in browser.run("document.title")
