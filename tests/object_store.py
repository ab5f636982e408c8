"""An S3 server of the tests' own on loopback, for the code paths that an object store takes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec


@contextmanager
def object_store() -> Iterator[dict[str, Any]]:
    """Start a server with a bucket `studies`; yields s3fs's options, which `use_store` puts in force."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "key", "secret": "secret"}
            fsspec.filesystem("s3", **options).mkdir("studies")
            yield options
        finally:
            server.terminate()


def use_store(options: dict[str, Any]) -> None:
    """Let s3:// mean the tests' own server in this process."""
    fsspec.config.conf["s3"] = dict(options)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the S3 server did not start within a minute")
