"""A reverse proxy as operators set one up: what lies below /cam/ is asked of another server, without that
folder.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = "/cam/"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@contextmanager
def below_a_folder(port: int) -> Iterator[tuple[str, list[str]]]:
    """Address of a page of the server at `port` behind the proxy, and the paths that were asked for and are
    not below it.
    """
    strays: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(FOLDER):
                strays.append(self.path)
                self.send_error(404)
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            upstream.request(
                self.command,
                "/" + self.path.removeprefix(FOLDER),
                body,
                headers | {"Host": f"127.0.0.1:{port}"},
            )
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.end_headers()
            try:
                while part := answer.read1(65536):
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:
                self.close_connection = True
            finally:
                upstream.close()

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{FOLDER}", strays
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
