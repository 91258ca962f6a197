"""A web server of the files in a folder, as stores are served by."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["served"]


class Files(SimpleHTTPRequestHandler):
    """Gives out files; answers for a listing with `status` where that is not 200, for what is absent with `missing`."""

    # Connections are kept, as real servers keep them: a new one for every document takes longer than to validate it.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head that waits for its body waits for an acknowledgement first

    status = 200
    missing = 404

    def log_message(self, *_: Any) -> None:
        pass

    def list_directory(self, path: Any) -> Any:
        if self.status == 200:
            return super().list_directory(path)
        self.send_error(self.status)
        return None

    def send_error(self, code: int, *rest: Any) -> None:
        super().send_error(self.missing if code == HTTPStatus.NOT_FOUND else code, *rest)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # a client that asks for dozens of things at once is not put off for a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who has what he wants may leave
            super().handle_error(request, client_address)


@contextmanager
def served(folder: Path, **answers: int) -> Iterator[str]:
    """The address at which the files of a folder are given out meanwhile."""
    server = Server(("127.0.0.1", 0), partial(type("Handler", (Files,), answers), directory=str(folder)))
    # How often it looks whether it shall end: as long may the end take.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
