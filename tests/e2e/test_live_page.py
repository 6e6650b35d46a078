"""The live page in a real browser: what is seen is what was segmented, and what is old looks old."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.specs import Frame
from edgeseg.stream.watch.events import Event
from edgeseg.stream.watch.status import Monitor, SourceState
from edgeseg.stream.web.page import LivePage
from edgeseg.stream.web.server import LiveServer
from edgeseg.synthetic.scene import LABELS, Scene
from proxies import below_a_folder
from sinking import result
from statuses import run_status, sink_status, source_status
from streams import time_limit

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.usefixtures(time_limit.__name__),
]
REGION = {"name": "lane", "points": [[0.4, 0.6], [0.6, 0.6], [0.9, 0.95], [0.1, 0.95]]}


class Street:
    """A run of two sources as the page sees it: scenes whose masks are exact, 20 times a second."""

    def __init__(self, port: int = 0, token: str | None = None) -> None:
        self.page, self.monitor = LivePage(LABELS), Monitor()
        self.states: dict[str, SourceState] = {"gate": "RUNNING", "yard": "RUNNING"}
        self.count = 0
        self.begun_s = time.monotonic()
        self._scenes = {name: Scene(seed, (270, 480)) for seed, name in enumerate(self.states, 5)}
        about = {"bundle": "street.edgeseg", "model": "edaformer_t", "regions": {"gate": [REGION]}}
        self.server = LiveServer(
            ("127.0.0.1", port), self.page, self.monitor, token=token, about=about, power=lambda: {"VDD": 7.5}
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed)

    def __enter__(self) -> Street:
        self.server.__enter__()
        self.monitor.attach(self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.server.__exit__(None, None, None)
        self.monitor.events.close()

    def frame(self, name: str, index: int) -> tuple[Any, Any]:
        return self._scenes[name].frame(index, 20.0)

    def _look(self) -> Any:
        error = "connection refused"
        sources = [
            source_status(
                name,
                state,
                frames=self.count,
                delivered=self.count,
                last_error=None if state == "RUNNING" else error,
            )
            for name, state in self.states.items()
        ]
        return run_status(*sources, frames=2 * self.count, sinks=(sink_status(),))

    def _feed(self) -> None:
        while not self._over.wait(0.05):
            for name, state in self.states.items():
                if state == "RUNNING":
                    image_rgb, mask = self.frame(name, self.count)
                    picture = Frame(image_rgb, self.count, self.count / 20, time.monotonic(), name)
                    regions = {"lane": {"road": 0.8}}
                    self.page.write(result(picture, mask, age_ms=20.0, latency_ms=15.0, regions=regions))
            self.count += 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # A container has no user namespaces for Chromium's sandbox when we are root.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab that fails the test for what its console complains about, and for requests to anybody else."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark")
    tab = context.new_page()
    tab.complaints = complaints = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if "//127.0.0.1:" not in request.url and "blob:" not in request.url
            else None
        ),
    )
    tab.set_default_timeout(15_000)
    yield tab
    context.close()


def until(tab: Any, expression: str) -> None:
    """Wait for something to be true in the page. (Playwright's own way needs `eval`, which the page's policy
    forbids.)
    """
    deadline_s = time.monotonic() + 15
    while not tab.evaluate(f"'edgeseg' in window && Boolean({expression})"):
        assert time.monotonic() < deadline_s, expression
        tab.wait_for_timeout(50)


def held(tab: Any, source: str, after: int = 0) -> int:
    """Hold a picture of a source; its index."""
    until(tab, f"edgeseg.stage.header?.source === '{source}' && edgeseg.stage.header.index > {after}")
    tab.click("#pause")
    return int(tab.evaluate("edgeseg.stage.header.index"))


def pixel(tab: Any, y: int, x: int) -> Any:
    return np.array(
        tab.evaluate(f"[...edgeseg.stage.context.getImageData({x}, {y}, 1, 1).data.slice(0, 3)]"), float
    )


def slide(tab: Any, percent: int) -> None:
    tab.locator("#opacity").fill(str(percent))


def test_what_is_seen_is_what_was_segmented(tab: Any) -> None:
    asked: list[str] = []
    with Street() as street:
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(street.server.url)
        index = held(tab, "gate", 2)
        image_rgb, mask = street.frame("gate", index)
        assert np.array_equal(
            np.array(tab.evaluate("[...edgeseg.stage.indices]"), np.uint8).reshape(mask.shape), mask
        )
        road = LABELS.names.index("road")
        # The middle of a large piece of road, away from the outline of the region, where JPEG is close to
        # exact.
        inside = cv2.erode((mask == road).astype(np.uint8), np.ones((15, 15)))
        y, x = (
            int(value)
            for value in min(np.argwhere(inside), key=lambda at: abs(at[0] - 205) + abs(at[1] - 240))
        )
        image, colour = (
            image_rgb[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0),
            np.array(LABELS.palette_rgb[road], float),
        )
        asked.clear()
        for percent in (50, 100, 0, 30):
            slide(tab, percent)
            assert tab.inner_text("#opacity-value") == f"{percent} %"
            assert np.abs(pixel(tab, y, x) - (image * (100 - percent) + colour * percent) / 100).max() < 14
        slide(tab, 100)
        assert np.array_equal(pixel(tab, y, x), colour)
        tab.get_by_label("road", exact=True).uncheck()
        assert np.abs(pixel(tab, y, x) - image).max() < 14
        tab.click("#all")
        assert np.array_equal(pixel(tab, y, x), colour)
        tab.click("#none")
        assert np.abs(pixel(tab, y, x) - image).max() < 14
        row = tab.locator(".class[data-name=road]")
        row.hover()
        row.locator("button").click()
        assert np.array_equal(pixel(tab, y, x), colour)
        assert tab.evaluate("[...edgeseg.stage.hidden].length") == len(LABELS.names) - 1
        # All of that happened in the browser: while a picture is held none is asked for.
        assert [url for url in asked if "/api/frame" in url] == []
        box = tab.locator("#canvas").bounding_box()
        scale = min(box["width"] / 480, box["height"] / 270)
        left, top = (box["width"] - 480 * scale) / 2, (box["height"] - 270 * scale) / 2
        tab.mouse.move(box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale)
        assert tab.inner_text("#probe") == "road"
        tab.click("#pause")
        until(tab, f"edgeseg.stage.header.index > {index}")
    assert tab.complaints == []


def test_what_is_old_looks_old(tab: Any) -> None:
    with Street() as street:
        port = int(street.server.url.rstrip("/").rpartition(":")[2])
        tab.goto(street.server.url)
        until(tab, "edgeseg.stage.header?.index > 1")
        assert not tab.is_visible("#stale") and tab.inner_text("#health") == "ok"
        street.states["gate"] = "RECONNECTING"
        street.monitor.events.publish(
            Event(3.0, "gate", "state", "connection refused", {"state": "RECONNECTING"})
        )
        tab.wait_for_selector("#stage.old")
        assert "connection refused" in tab.inner_text("#stale")
        assert tab.inner_text("#shown-state") == "reconnecting" and tab.inner_text("#health") == "degraded"
        until(
            tab,
            "document.querySelector('#events').textContent.includes('gate reconnecting: connection refused')",
        )
        # The other source goes on, and the picture of the first does not stand for it while its own comes.
        tab.evaluate("document.querySelectorAll('.source')[1].click()")
        assert tab.evaluate("edgeseg.stage.header") is None
        until(tab, "edgeseg.stage.header?.source === 'yard'")
        tab.wait_for_selector("#stage:not(.old)")
        tab.locator(".source").first.click()
        until(
            tab,
            "document.querySelector('#stale').textContent.startsWith('Last picture') || edgeseg.stage.header",
        )
        street.states["gate"] = "RUNNING"
        until(
            tab,
            "edgeseg.stage.header?.source === 'gate' && !document.querySelector('#stage').matches('.old')",
        )
    tab.wait_for_selector("#notice:not([hidden])")
    assert "ended" in tab.inner_text("#notice")
    tab.wait_for_selector("#stage.old")
    tab.complaints.clear()  # a server that is gone is worth a complaint
    with Street(port):
        until(tab, "edgeseg.state.connected && edgeseg.stage.header?.index >= 0")
        tab.wait_for_selector("#stage:not(.old)")
        assert not tab.is_visible("#notice")


def test_the_token_is_asked_for_once(tab: Any) -> None:
    with Street(token="open sesame") as street:
        tab.goto(street.server.url)
        tab.get_by_label("Token").fill("wrong password")
        with tab.expect_navigation():
            tab.click("button")
        assert "not the token" in tab.inner_text("form")
        tab.get_by_label("Token").fill("open sesame")
        with tab.expect_navigation(url=street.server.url):
            tab.click("button")
        until(tab, "edgeseg.stage.header?.index >= 0")
        assert "sesame" not in tab.url
        tab.reload()
        until(tab, "edgeseg.stage.header?.index >= 0")


def test_behind_a_proxy_below_a_folder(tab: Any) -> None:
    with (
        Street(token="open sesame") as street,
        below_a_folder(int(street.server.url.rstrip("/").rpartition(":")[2])) as (url, strays),
    ):
        tab.goto(url)
        tab.get_by_label("Token").fill("wrong password")
        with tab.expect_navigation():
            tab.click("button")
        tab.get_by_label("Token").fill("open sesame")
        with tab.expect_navigation(url=url):
            tab.click("button")
        until(tab, "edgeseg.stage.header?.index >= 3 && edgeseg.state.connected")
        tab.reload()
        until(tab, "edgeseg.stage.header?.index >= 0")
        tab.goto(f"{url}?token=open%20sesame")
        until(tab, "edgeseg.stage.header?.index >= 0")
        assert tab.url == url
        assert strays == [], "what is asked for beside the folder goes to somebody else"


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1440), ("light", 1440), ("light", 390)])
def test_everybody_can_use_it(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    with Street() as street:
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.goto(street.server.url)
        until(tab, "edgeseg.stage.header?.index > 5")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "nothing sticks out at the side"
        )
        assert tab.evaluate(CONTRAST) == []
        assert tab.evaluate(NAMELESS) == []
        # Everything by keyboard: hold, opacity, the next source.
        tab.keyboard.press("Space")
        assert tab.get_attribute("#pause", "aria-pressed") == "true"
        tab.keyboard.press("Space")
        before = int(tab.input_value("#opacity"))
        tab.keyboard.press("]")
        assert int(tab.input_value("#opacity")) == before + 10
        tab.keyboard.press("ArrowDown")
        until(tab, "edgeseg.stage.header?.source === 'yard'")
        until(tab, "/yard: .* \\d+ %/.test(document.querySelector('#canvas').getAttribute('aria-label'))")
        tab.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        tab.close()


NAMELESS = """[...document.querySelectorAll('button, input, [role=img], section[aria-label],' +
    'svg:not([aria-hidden])')].filter(
    (one) => !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length))
    .map((one) => one.outerHTML)"""
CONTRAST = """(() => {
  // Text against what is painted behind it, by WCAG 2.2; over the picture there is glass, which is dark.
  const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colours) => {
    probe.clearRect(0, 0, 1, 1);
    for (const colour of colours) { probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1); }
    return [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (colour) => colour.map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const failing = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest('#stage, noscript, .skip, .unseen')) continue;
    const behind = [];
    for (let at = one; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [light(rgb([getComputedStyle(one).color])), light(rgb(['#fff', ...behind]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5)
      failing.push(`${one.id || one.className || one.tagName}: ${one.textContent} ${ratio.toFixed(2)}`);
  }
  return failing;
})()"""
