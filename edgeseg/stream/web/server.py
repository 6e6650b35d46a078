"""The web server of a run: the page, its numbers as server-sent events, its pictures one at a time, health
and metrics.

It runs on a thread of its own and reads what the run leaves for it. A browser takes a picture when it has
drawn the last one, and numbers are the newest at each tick, so nothing piles up for a slow one and the run
waits for nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.resources import files
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgeseg import __version__
from edgeseg.errors import RecipeError, StreamError, require
from edgeseg.stream.watch.status import Monitor
from edgeseg.stream.web.metrics import exposition, health
from edgeseg.stream.web.page import LivePage
from edgeseg.text import json_text

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from typing_extensions import Self

TICK_S = 0.5
"""How often the page gets new numbers."""

_WAIT_S = 10.0  # a picture that does not come is asked for again
_FRAME_GAP_S = 1 / 30  # pictures per second and viewer, at most
_STARTUP_S = 10.0
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "html": "text/html"}
_MIN_TOKEN = 8

Power = Callable[[], Mapping[str, float]]
"""Watts by name of the rail; empty where this machine has no meter."""


def parse_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080", "[::1]:8080", ":8080" (loopback) or "8080" -> host and port.

    Raises:
        RecipeError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isdecimal() and int(port) < 65536) or not (host == "localhost" or _is_address(host)):
        raise RecipeError(
            f"{text}: not an address to listen on",
            hint="write 127.0.0.1:8080, or 0.0.0.0:8080 with --web-token",
        )
    return ("127.0.0.1" if host == "localhost" else host), int(port)


class LiveServer:
    """Serves a `LivePage` for the length of a `with` block, which it enters when the address is bound.

    Args:
        address: host (an IP address) and port; port 0 takes a free one, see `url`.
        page: what the run writes to.
        monitor: how the run is doing.
        token: what a visitor must know; None only for loopback addresses.
        about: shown in the page's head: bundle, model, its input size.
        power: asked once per tick while somebody looks, on a thread of the server.
    Raises:
        RecipeError: an address that others can reach, without a token; or a token that is too short.
        MissingDependency: Starlette or uvicorn is not installed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        page: LivePage,
        monitor: Monitor,
        *,
        token: str | None = None,
        about: Mapping[str, Any] | None = None,
        power: Power | None = None,
    ) -> None:
        for package in ("starlette", "uvicorn"):
            require(package, extra="web", purpose="serve the live page")
        if token is None and not ipaddress.ip_address(address[0]).is_loopback:
            raise RecipeError(
                f"{address[0]}:{address[1]}: others can reach this address, and the page shows what the"
                " cameras see",
                hint=(
                    'give it a token: --web-token "$(openssl rand -hex 16)" (or EDGESEG_WEB_TOKEN), or listen'
                    " on 127.0.0.1"
                ),
            )
        if token is not None and len(token) < _MIN_TOKEN:
            raise RecipeError(
                f"a web token has at least {_MIN_TOKEN} characters", hint="openssl rand -hex 16 makes one"
            )
        self._address, self._page, self._monitor, self._token = address, page, monitor, token
        self._about = dict(about or {})
        self._power = power or dict
        self._ended = False
        self._viewers = 0
        self.url = ""

    def __enter__(self) -> Self:
        """Raises StreamError where the address cannot be bound."""
        import uvicorn

        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StreamError(
                f"{host}:{port}: the live page cannot listen here: {error.strerror or error}",
                hint="another run may use the port; --web 127.0.0.1:0 takes a free one",
            ) from error
        port = listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        config = uvicorn.Config(
            self.application(),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="edgeseg-web", daemon=True
        )
        self._thread.start()
        give_up_s = time.monotonic() + _STARTUP_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < give_up_s:
            time.sleep(0.01)
        self._monitor.events.subscribe(self._page.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._server.should_exit = True
        self._thread.join(3.0)

    def application(self) -> Starlette:
        """The ASGI application, guard included."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.routing import Route

        from edgeseg.stream.web.guard import Guard

        routes = [
            Route("/", self._index),
            Route("/static/{name}", self._static),
            Route("/api/status", self._status),
            Route("/api/numbers", self._numbers),
            Route("/api/frame", self._frame),
            Route("/healthz", self._healthz),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Guard, token=self._token)])

    async def _index(self, request: Request) -> Response:
        return _asset("index.html")

    async def _static(self, request: Request) -> Response:
        return _asset(request.path_params["name"])

    async def _status(self, request: Request) -> Response:
        from starlette.responses import Response

        return Response(json_text(await self._hello()), media_type="application/json")

    async def _healthz(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        word = health(self._monitor.snapshot())
        return JSONResponse({"status": word}, 503 if word == "failing" else 200)

    async def _metrics(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        watts = await run_in_threadpool(self._power)
        text = exposition(self._monitor.snapshot(), power_w=watts, viewers=self._viewers, about=self._about)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _frame(self, request: Request) -> Response:
        """The first picture of `source` that is newer than `after`; 204 where none comes for a while."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        source, after = request.query_params.get("source", ""), request.query_params.get("after", "0")
        seen = int(after) if after.isdecimal() else 0
        give_up_s = time.monotonic() + _WAIT_S
        await asyncio.sleep(_FRAME_GAP_S)
        while self._page.sequence(source) <= seen:
            if self._ended or time.monotonic() > give_up_s or await request.is_disconnected():
                return Response(status_code=204)
            await asyncio.sleep(_FRAME_GAP_S)
        return Response(
            await run_in_threadpool(self._page.packet, source), media_type="application/octet-stream"
        )

    async def _numbers(self, request: Request) -> Response:
        from starlette.responses import StreamingResponse

        # A proxy that gathers an answer before it passes it on would hold back every number.
        return StreamingResponse(
            self._ticks(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def _ticks(self) -> AsyncIterator[str]:
        """Server-sent events: one `hello` with all that is known, then a `tick` every half second, and `bye`
        at the end.
        """
        self._viewers += 1
        try:
            hello = await self._hello()
            told = hello["events"][-1]["number"] if hello["events"] else 0
            yield _message("hello", hello)
            while not self._ended:
                await asyncio.sleep(TICK_S)
                tick = await self._tick(told)
                told = tick["events"][-1]["number"] if tick["events"] else told
                yield _message("tick", tick)
            yield _message("bye", {})
        finally:
            self._viewers -= 1

    async def _hello(self) -> dict[str, Any]:
        labels = self._page.labels
        classes = [
            {"name": name, "rgb": rgb} for name, rgb in zip(labels.names, labels.palette_rgb, strict=True)
        ]
        points = self._page.history()
        return {
            **await self._tick(0),
            "version": __version__,
            "about": self._about,
            "classes": classes,
            "tick_s": TICK_S,
            "points": points,
        }

    async def _tick(self, told: int) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        status = self._monitor.snapshot()
        return {
            "status": status.to_json() if status else None,
            "health": health(status),
            "power_w": await run_in_threadpool(self._power),
            "points": {source: points[-1:] for source, points in self._page.history().items()},
            "events": [{"number": number, **event} for number, event in self._page.events_after(told)],
        }


def _message(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json_text(data)}\n\n"


def _asset(name: str) -> Response:
    from starlette.responses import PlainTextResponse, Response

    known = {entry.name: entry for entry in (files(__package__) / "static").iterdir()}
    if name not in known:
        return PlainTextResponse("not found\n", 404)
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(known[name].read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
