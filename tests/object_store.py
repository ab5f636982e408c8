"""An S3 server of the tests' own on loopback, for the code paths that an object store takes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import fsspec

_START_S = 300
"""A busy machine takes minutes to import the server."""


@contextmanager
def object_store(refuses_every: int = 0, waits_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Start a server with a bucket `studies`; yields s3fs's options, which `use_store` puts in force.

    Where `refuses_every` is given, one request of so many is answered with 503 or 500, in turn; each waits `waits_s`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if refuses_every or waits_s:
        faulty = str(Path(__file__).with_name("faulty_store.py"))
        command = [sys.executable, faulty, str(port), str(refuses_every), str(waits_s)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "key", "secret": "secret"}
            fsspec.filesystem("s3", **options).mkdir("studies")
            yield options
        finally:
            server.terminate()


def n_refused(options: dict[str, Any]) -> tuple[int, int]:
    """Requests that a store with faults has refused, and all of them."""
    with urlopen(f"{options['endpoint_url']}/faults", timeout=30) as answer:
        refused, asked = answer.read().split()
    return int(refused), int(asked)


def use_store(options: dict[str, Any]) -> None:
    """Let s3:// mean the tests' own server in this process."""
    fsspec.config.conf.setdefault("s3", {}).update(options)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the S3 server did not start within five minutes")
