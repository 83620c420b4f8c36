"""A hub on loopback that serves one repository to the real client, and may cut its answers short."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "b" * 40


class HubServer(ThreadingHTTPServer):
    """Serves the files of `owner/name` at one commit."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.cut_at: int | None = None
        """Bytes of a file after which the connection breaks, once. None: whole answers."""
        self.refused = ""
        """File that the account may not read."""
        self.sent: list[str] = []
        self.ranges: list[str] = []
        """Files sent, and Range headers of those sent in part."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self):
        self._file(self.path.rpartition(f"/resolve/{COMMIT}/")[2], body=False)

    def do_GET(self):
        path = self.path.partition("?")[0]
        names = sorted(self.server.files)
        if path.startswith("/api/models/owner/name/tree/"):
            tree = [{"type": "file", "path": name, "size": len(self.server.files[name]), "oid": "0"} for name in names]
            return self._json(tree)
        if path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name} for name in names]
            return self._json({"id": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False})
        return self._file(path.rpartition(f"/resolve/{COMMIT}/")[2], body=True)

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, name: str, body: bool) -> None:
        if name not in self.server.files or name == self.server.refused:
            self.send_error(404 if name not in self.server.files else 403)
            return
        whole, begin = self.server.files[name], 0
        if "Range" in self.headers:
            self.server.ranges.append(self.headers["Range"])
            begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(whole) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        self.send_header("ETag", f'"{sha256(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        self.server.sent.append(name)
        cut = self.server.cut_at
        if cut is not None and cut < len(whole):
            self.server.cut_at, self.close_connection = None, True
            whole = whole[:cut]
        self.wfile.write(whole[begin:])

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def hub_server(files: Mapping[str, bytes]) -> Iterator[HubServer]:
    """Serve on loopback until the context ends."""
    server = HubServer(files)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
