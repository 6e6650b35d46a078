"""Who may look: loopback only, or a token. Stands before every route of the page.

Without a token the page answers to the names of the loopback interface alone: another site that has its own
name point to 127.0.0.1 (DNS rebinding) would otherwise read the cameras through the visitor's browser.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "edgeseg_token"
OPEN_PATHS = ("/healthz", "/static/page.css", "/static/icon.svg")
"""Answered to everybody: they say nothing about what the cameras see."""

_MAX_LOGIN_BYTES = 4096
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>edgeseg</title><link rel="icon" href="static/icon.svg"><link rel="stylesheet" href="static/page.css">
<main class="login"><form method="post" action="login"><h1>edgeseg</h1><p>{said}</p>
<label for="token">Token</label><input id="token" name="token" type="password"
autocomplete="current-password" autofocus required>
<button type="submit">Look</button></form></main></html>"""


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port, is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware.

    Args:
        token: what a visitor must know; None: visitors come over the loopback interface, and must name it.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        refusal = await self._refusal(Request(scope, receive))
        await (refusal or self._app)(scope, receive, send_guarded)

    async def _refusal(self, request: Request) -> Response | None:
        """What to answer instead; None where the visitor may pass."""
        path = request.url.path
        if path in OPEN_PATHS:
            return None
        if self._token is None:
            host = request.headers.get("host", "").rsplit("]", 1)
            name = host[0] + "]" if len(host) == 2 else host[0].split(":")[0]
            return (
                None
                if is_loopback(name)
                else PlainTextResponse(
                    "this page answers to localhost only; with --web-token it does to every name\n", 421
                )
            )
        if path == "/login" and request.method == "POST":
            return await self._login(request)
        if path == "/" and self._known(request.query_params.get("token", "")):
            return self._welcome(
                request.query_params["token"]
            )  # also to whom is known: it leaves the address bar
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self._known(given if scheme.lower() == "bearer" else unquote(request.cookies.get(COOKIE, ""))):
            return None
        if path != "/":
            return PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
        if "token" in request.query_params:
            return self._welcome(request.query_params["token"])
        return HTMLResponse(
            _LOGIN.format(said="This page shows live cameras. It needs the token of the run."), 401
        )

    async def _login(self, request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_LOGIN_BYTES:
                return PlainTextResponse("too long for a token\n", 413)
        return self._welcome(parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0])

    def _welcome(self, token: str) -> Response:
        """Keep a right token in a cookie, so that it leaves the address bar and the browser's history."""
        if not self._known(token):
            return HTMLResponse(_LOGIN.format(said=html.escape("This is not the token of the run.")), 401)
        # Relative, and a cookie of no stated path: behind a proxy the page may lie below a folder that we do
        # not know.
        answer = RedirectResponse("./", 303)
        answer.set_cookie(COOKIE, quote(token, safe=""), httponly=True, samesite="strict", path=None)
        return answer

    def _known(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())
