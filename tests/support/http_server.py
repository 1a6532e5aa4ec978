"""A host on this machine that serves bytes by HTTP, and fails in the ways in which hosts fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Host:
    """What is served, by path, how it fails, and what was asked for."""

    files: Mapping[str, bytes]
    url: str = ""
    break_after: int = 0
    """Bytes after which each answer ends early; 0: none does."""
    breaks: int = 10**9
    """How many answers end early."""
    ranges: bool = True
    tag: str = '"1"'
    content_type: str = "application/octet-stream"
    status: int = 200
    hangs: bool = False
    """Send the head and half of the content, and then nothing more."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of each request."""
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Host]:
    """A host with these files, until the end of the block."""
    host = Host(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, host)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        host.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(request: BaseHTTPRequestHandler, host: Host) -> None:
    wanted = request.headers.get("Range", "")
    host.asked.append((request.path, wanted))
    content = host.files.get(request.path)
    if content is None or host.status != 200:
        request.send_error(404 if content is None else host.status)
        return
    begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
    same = request.headers.get("If-Range") == host.tag
    if begin and host.ranges and same:
        if begin >= len(content):
            request.send_error(416)
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        content = content[begin:]
    else:
        request.send_response(200)
    request.send_header("Content-Type", host.content_type)
    request.send_header("Content-Length", str(len(content)))
    if host.tag:
        request.send_header("ETag", host.tag)
    request.end_headers()
    if host.hangs:
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        host.over.wait(10)
    elif host.break_after and host.breaks > 0:
        host.breaks -= 1
        request.wfile.write(content[: host.break_after])
    else:
        request.wfile.write(content)
