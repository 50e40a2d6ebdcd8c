"""Servers that tests start, how they end, and how long anything is waited for."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Protocol

import psutil

PATIENCE = 600.0
"""Seconds until what a test waits for is taken for hung: a guard alone, at least ten times what anything takes."""


class Process(Protocol):
    """What is asked of a process here: subprocess.Popen has it."""

    def poll(self) -> int | None: ...

    def communicate(self) -> tuple[str, str]: ...


def until(condition: Callable[[], object], process: Process | None = None) -> None:
    """Wait for it, however slow the machine; a `process` that ends meanwhile cannot bring it about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"the process ended before it happened: {process.communicate()}")
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of an HTTP server on this machine, in a thread of its own."""
    httpd = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def ended(process: subprocess.Popen) -> None:
    """`process` is asked to end; what it started and left behind is ended too."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    for child in psutil.wait_procs(children, timeout=10)[1]:  # not a wait for an end: what is left then is ended
        child.kill()
