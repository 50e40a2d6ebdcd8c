"""Servers that tests start, and how they end."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil


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


def ended(process: subprocess.Popen, patience: float = 30) -> None:
    """`process` is asked to end; what it started and left behind is ended too."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=patience)
    for child in psutil.wait_procs(children, timeout=10)[1]:
        child.kill()
