"""The live page's server, over real sockets: who may look, what is sent, and that nobody who looks holds up
the run.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import quote
from urllib.request import HTTPCookieProcessor, build_opener

import numpy as np
import pytest

from edgeseg import __version__
from edgeseg.errors import MissingDependency, RecipeError, StreamError
from edgeseg.stream.watch.status import Monitor
from edgeseg.stream.web.page import LivePage
from edgeseg.stream.web.server import LiveServer, parse_address
from proxies import below_a_folder
from statuses import run_status, source_status
from streams import LABELS, time_limit
from visitors import decode, frame, parse

pytestmark = pytest.mark.usefixtures(time_limit.__name__)
TOKEN = "correct horse; battery=staple"


class Site:
    """A server and what feeds it."""

    def __init__(self, token: str | None = None) -> None:
        self.page, self.monitor = LivePage(LABELS), Monitor()
        about = {"bundle": "tiny.edgeseg", "model": "tiny"}
        self.server = LiveServer(
            ("127.0.0.1", 0), self.page, self.monitor, token=token, about=about, power=lambda: {"VDD_IN": 7.5}
        )

    @contextmanager
    def open(self) -> Iterator[Site]:
        try:
            with self.server:
                yield self
        finally:
            self.monitor.events.close()  # as the end of a run does

    @property
    def port(self) -> int:
        return int(self.server.url.rstrip("/").rpartition(":")[2])

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    @contextmanager
    def numbers(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """Server-sent events as (kind, data), as they come."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request("GET", "/api/numbers")
            answer = connection.getresponse()
            assert answer.getheader("content-type", "").startswith("text/event-stream")

            def messages() -> Iterator[tuple[str, dict[str, Any]]]:
                kind = ""
                for line in answer:
                    if line.startswith(b"event: "):
                        kind = line[7:].strip().decode()
                    elif line.startswith(b"data: "):
                        yield kind, json.loads(line[6:])

            yield messages()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.open():
        yield site
    assert "edgeseg-web" not in [thread.name for thread in threading.enumerate()]


def test_the_page_is_whole_and_asks_nobody_else(site: Site) -> None:
    code, headers, body = site.ask("/")
    assert code == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in headers["content-security-policy"]
    wanted: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not [name for name, _ in attrs if name.startswith("on") or name == "style"], (
                "the policy forbids it"
            )
            wanted.extend(
                value
                for name, value in attrs
                if name in ("src", "href") and value and not value.startswith("#")
            )

    Links().feed(body.decode())
    seen = set()
    while wanted:
        path = wanted.pop()
        assert not path.startswith("/") and ":" not in path, (
            "below a proxy's folder only relative paths lead here"
        )
        code, headers, body = site.ask(f"/{path}")
        assert code == 200, path
        seen.add(path)
        if path.endswith(".js"):
            imported = {
                line.split('"')[1] for line in body.decode().splitlines() if line.startswith("import ")
            }
            wanted.extend(name.replace("./", "static/") for name in imported)
            wanted[:] = [name for name in wanted if name not in seen]
        assert b"https://" not in body and b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert {"static/main.js", "static/stage.js", "static/panels.js", "static/page.css", "metrics"} <= seen
    assert (
        site.ask("/static/../server.py")[0] == site.ask("/static/none.js")[0] == site.ask("/none")[0] == 404
    )


def test_a_picture_is_sent_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gate & yard/ü"
    path = f"/api/frame?source={quote(name, safe='')}&after="
    shown = frame(3, source=name)
    site.page.write(shown)
    code, _, body = site.ask(path + "0")
    header, _, received = decode(body)
    assert code == 200 and header["source"] == name and np.array_equal(received, shown.mask)
    # The next one is waited for, and comes as soon as it is there.
    timer = threading.Timer(0.4, lambda: site.page.write(frame(4, source=name)))
    begun_s = time.monotonic()
    timer.start()
    code, _, body = site.ask(path + str(header["sequence"]))
    assert code == 200 and decode(body)[0]["index"] == 4 and 0.3 < time.monotonic() - begun_s < 3
    monkeypatch.setattr("edgeseg.stream.web.server._WAIT_S", 0.2)
    assert site.ask(path + "99")[0] == site.ask("/api/frame?source=nobody&after=x")[0] == 204


def test_numbers(site: Site) -> None:
    site.page.write(frame(0))
    site.monitor.events.emit("state", "first frame", "gate", state="RUNNING")
    with site.numbers() as messages:
        kind, hello = next(messages)
        assert kind == "hello" and hello["status"] is None and hello["health"] == "starting"
        assert hello["classes"][0] == {"name": "road", "rgb": [128, 64, 128]}
        assert hello["about"]["bundle"] == "tiny.edgeseg" and hello["power_w"] == {"VDD_IN": 7.5}
        site.monitor.attach(lambda: run_status(source_status(frames=9), frames=9))
        site.monitor.events.emit("region", "lane: road blocked 40 %", "gate")
        kind, tick = next(messages)
        while not tick["events"] or tick["events"][-1]["kind"] != "region":
            kind, tick = next(messages)
        assert kind == "tick" and tick["status"]["frames"] == 9 and tick["health"] == "ok"
        assert "edgeseg_web_viewers 1" in site.ask("/metrics")[2].decode()
        kind, tick = next(messages)
        assert tick["events"] == [] and len(tick["points"]["gate"]) == 1
    deadline_s = time.monotonic() + 5
    while "edgeseg_web_viewers 0" not in site.ask("/metrics")[2].decode():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_the_end_of_the_run_is_told() -> None:
    site = Site()
    with site.open():
        thread_of: list[tuple[str, dict[str, Any]]] = []
        opened = threading.Event()

        def look() -> None:
            with site.numbers() as messages:
                for message in messages:
                    opened.set()
                    thread_of.append(message)

        viewer = threading.Thread(target=look)
        viewer.start()
        assert opened.wait(10)
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 2.0
    viewer.join(5)
    assert thread_of[-1] == ("bye", {})


def test_health_and_metrics(site: Site) -> None:
    assert site.ask("/healthz")[::2] == (200, b'{"status":"starting"}')
    site.monitor.attach(lambda: run_status(source_status(state="RECONNECTING", frames=3)))
    assert site.ask("/healthz")[::2] == (503, b'{"status":"failing"}')
    code, headers, body = site.ask("/metrics")
    assert code == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = parse(body.decode())
    assert samples["edgeseg_source_frames_total", (("source", "gate"),)] == 3
    assert (
        samples["edgeseg_info", (("version", __version__), ("bundle", "tiny.edgeseg"), ("model", "tiny"))]
        == 1
    )


def test_without_a_token_only_names_of_this_machine_pass(site: Site) -> None:
    for host in ("localhost", "127.0.0.1:8080", "LOCALHOST:1", "[::1]:8080", "127.9.9.9"):
        assert site.ask("/api/status", Host=host)[0] == 200, host
    for host in (
        "",
        "evil.example",
        "evil.example:8080",
        "10.0.0.3",
        "localhost.evil.example",
        "[::2]:80",
        "127.0.0.1@x",
    ):
        for path in ("/", "/api/status", "/api/frame?source=gate", "/metrics", "/login"):
            assert site.ask(path, Host=host)[0] == 421, host
        assert site.ask("/healthz", Host=host)[0] == 200


def test_token() -> None:
    site = Site(TOKEN)
    site.page.write(frame(0))
    with site.open():
        for path in (
            "/api/status",
            "/api/numbers",
            "/api/frame?source=gate&after=0",
            "/metrics",
            "/static/main.js",
            "/none",
        ):
            for wrong in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Cookie": "edgeseg_token=wrong"},
                {"Authorization": TOKEN},
            ):
                code, headers, body = site.ask(path, **wrong)
                assert (code, headers["www-authenticate"], body) == (401, "Bearer", b"a token is needed\n")
        assert site.ask("/healthz")[0] == site.ask("/static/page.css")[0] == 200
        assert site.ask("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert site.ask("/api/status", Authorization=f"bearer {TOKEN}", Host="camera.example")[0] == 200
        code, _, body = site.ask("/")
        assert code == 401 and b'type="password"' in body
        assert site.ask("/?token=wrong")[0] == site.ask("/login", "POST", "token=wrong")[0] == 401
        assert site.ask("/login", "POST", "token=" + "x" * 5000)[0] == 413
        for enter in (("/?token=" + quote(TOKEN), "GET", None), ("/login", "POST", "token=" + quote(TOKEN))):
            code, headers, body = site.ask(*enter)
            assert code == 303 and headers["location"] == "./" and TOKEN.encode() not in body
            cookie = headers["set-cookie"]
            assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
            assert site.ask("/api/status", Cookie=cookie.partition(";")[0])[0] == 200


def test_below_a_folder_of_a_proxy() -> None:
    """Redirect, cookie and everything that the page asks for stay in that folder."""
    site = Site(TOKEN)
    site.page.write(frame(0))
    with site.open(), below_a_folder(site.port) as (url, strays):
        jar = CookieJar()
        visitor = build_opener(HTTPCookieProcessor(jar))
        with visitor.open(f"{url}login", f"token={quote(TOKEN)}".encode(), timeout=20) as answer:
            assert answer.url == url and b"main.js" in answer.read()
        assert [cookie.path for cookie in jar] == ["/cam"], "another page of this host has a token of its own"
        for path in ("api/status", "static/main.js", "metrics", "api/frame?source=gate&after=0"):
            with visitor.open(url + path, timeout=20) as answer:
                assert answer.status == 200
        with visitor.open(f"{url}api/numbers", timeout=20) as answer:
            assert answer.readline() == b"event: hello\n"
            assert answer.headers["x-accel-buffering"] == "no"
        with build_opener(HTTPCookieProcessor()).open(f"{url}?token={quote(TOKEN)}", timeout=20) as answer:
            assert answer.url == url and answer.status == 200
        assert strays == []


def test_without_its_packages_the_page_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependency, match="uvicorn") as caught:
        LiveServer(("127.0.0.1", 0), LivePage(LABELS), Monitor())
    assert "edgeseg[web]" in caught.value.hint


@pytest.mark.parametrize("address", [("0.0.0.0", 8080), ("::", 8080), ("10.1.2.3", 80)])
def test_beyond_this_machine_a_token_is_needed(address: tuple[str, int]) -> None:
    with pytest.raises(RecipeError, match="others can reach this address") as caught:
        LiveServer(address, LivePage(LABELS), Monitor())
    assert "--web-token" in caught.value.hint
    with pytest.raises(RecipeError, match="at least 8 characters"):
        LiveServer(address, LivePage(LABELS), Monitor(), token="short")
    LiveServer(address, LivePage(LABELS), Monitor(), token=TOKEN)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:80", ("127.0.0.1", 80)),
        (":8080", ("127.0.0.1", 8080)),
        ("8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "127.0.0.1", "127.0.0.1:", "camera:80", "127.0.0.1:65536", "1.2.3:80", "127.0.0.1:-1"],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(RecipeError, match="not an address to listen on"):
        parse_address(text)


def test_a_port_that_is_taken(site: Site) -> None:
    with (
        pytest.raises(StreamError, match="cannot listen here"),
        LiveServer(("127.0.0.1", site.port), LivePage(LABELS), Monitor()),
    ):
        pass


def test_viewers_who_never_read_do_not_hold_up_the_run(site: Site) -> None:
    site.monitor.attach(lambda: run_status(source_status(frames=9)))
    big = frame(0, (1080, 1920))

    def spent_s(writes: int = 400) -> float:
        begun_s = time.monotonic()
        for _ in range(writes):
            site.page.write(big)
        return time.monotonic() - begun_s

    spent_s()
    stuck = []
    for path in ("/api/numbers", "/api/frame?source=gate&after=0") * 8:
        viewer = socket.create_connection(("127.0.0.1", site.port))
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        viewer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        stuck.append(viewer)
    time.sleep(0.5)
    # A write takes some microseconds; 25 fps leave 40 ms each.
    assert spent_s() < 400 * 0.002
    # And one who reads still gets everything.
    assert decode(site.ask("/api/frame?source=gate&after=0")[2])[0]["size_hw"] == [1080, 1920]
    with site.numbers() as messages:
        assert [next(messages)[0], next(messages)[0]] == ["hello", "tick"]
    for viewer in stuck:
        viewer.close()
