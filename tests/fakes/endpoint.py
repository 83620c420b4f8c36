"""An OpenAI-compatible endpoint on this machine, for as long as a test needs it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, object] | tuple[int, object, dict[str, str]]
"""Status, content and, where it needs more than its length, headers."""


@contextmanager
def served(answer: Callable[[dict, dict], Answer], path: str = "/v1/chat/completions") -> Iterator[str]:
    """The address of an endpoint that says what `answer(body, headers)` does; bytes are sent as they are.

    A Content-Length above the bytes' own is a connection that closes in the middle.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == path
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content, *more = answer(body, dict(self.headers))
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(sent))} | (more[0] if more else {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def longer(body: dict) -> dict:
    return {"choices": [{"message": {"content": f"A film of {body['messages'][1]['content']},\nslow and bright."}}]}
