"""An S3 server that is now and then too busy, or at fault, or slow: it refuses one request of so many, and all wait.

    python faulty_store.py PORT EVERY WAIT_S

`GET /faults` tells how many requests it has refused, of how many. Where EVERY is 0, it refuses none. Which ones is
drawn, from one seed: were it every fifth, a lease renewed by four requests could hold another's tries there for ever.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

BUSY = ("503 Slow Down", b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
FAULT = ("500 Internal Server Error", b"<Error><Code>InternalError</Code><Message>Try again.</Message></Error>")


class Faulty:
    """The server behind its faults."""

    def __init__(self, every: int, wait_s: float) -> None:
        self._server = DomainDispatcherApplication(create_backend_app)
        self._every, self._wait_s = every, wait_s
        self._chance, self._one_at_a_time = random.Random(0), threading.Lock()
        self._n_asked = self._n_refused = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] == "/faults":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"{self._n_refused} {self._n_asked}".encode()]
        time.sleep(self._wait_s)
        with self._one_at_a_time:
            self._n_asked += 1
            refused = bool(self._every) and self._chance.randrange(self._every) == 0
            self._n_refused += refused
            answer = (BUSY, FAULT)[self._n_refused % 2]
        if not refused:
            return self._server(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, body = answer
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


class _Quiet(WSGIRequestHandler):
    """Says nothing of what it serves."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        Faulty(int(sys.argv[2]), float(sys.argv[3])),
        threaded=True,
        request_handler=_Quiet,
    )
