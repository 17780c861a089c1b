"""Answers under hostile requests: `python -m svd_core.benchmarks hostile`. A table, then JSON.

A server without a model gets requests that try to keep it busy, one after another, while
`/fal/health` is polled. The clock also counts the work of other programs, so the figure is the
processor time that the server spends until a poll is answered. A request that blocks the event
loop, or holds the interpreter's lock, spends it there.
"""

import json
import threading
from collections.abc import Mapping, Sequence

from svd_core.benchmarks.server_process import STUB_SERVER, Server, running_server
from svd_core.benchmarks.targets import Target, make_parser, report

MOST_MS = 250
KEY = "ann:secret"
PAUSE_S = 0.005
"""Seconds between two polls."""

HostileRequest = tuple[str, bytes, Mapping[str, str]]
"""Path, body and headers."""

APP = "fal-ai/stable-video"
QUEUE, RUN = f"/fal/queue/{APP}", f"/fal/run/{APP}"
JOIN, PREDICT, MCP = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/mcp/"
MB = 2**20


def image(url: str) -> bytes:
    return json.dumps({"image_url": url}).encode()


def event(text: str) -> bytes:
    return f'{{"data": [{text}], "fn_index": 0, "session_hash": "a"}}'.encode()


def hostile_requests() -> Mapping[str, HostileRequest]:
    """Requests by the name of what is hostile in them."""
    lists = ",".join(["[]"] * 5_000_000)
    number = "9" * 10 * MB
    parts = json.dumps({"parts": [{"partNumber": n, "etag": "a"} for n in range(10_000)]}).encode()
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    files = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d"\r\n\r\n1\r\n' % n
        for n in range(5_000)
    )
    return {
        # Addresses of photos.
        "long host": (QUEUE, image("http://" + "a" * 60_000), {}),
        "longer host": (RUN, image("https://" + "a" * 20 * MB), {}),
        "path": (RUN, image("http://a" + "/cdn/files" * MB), {}),
        "escaped data": (RUN, image("data:," + "%41" * 5 * MB), {}),
        "spaced base64": (RUN, image("data:image/png;base64," + "Q Q " * 5 * MB), {}),
        "bad base64": (RUN, image("data:image/png;base64," + "Q" * 20 * MB + "%"), {}),
        "no picture": (RUN, image("data:image/png;base64," + "Q" * 20 * MB), {}),
        "webhook": (f"{QUEUE}?fal_webhook=http://{'a' * 30_000}", image("http://a"), {}),
        # JSON.
        "lists": (QUEUE, f"[{lists}]".encode(), {}),
        "lists inside": (RUN, f'{{"image_url": "x", "a": [{lists}]}}'.encode(), {}),
        "depth": (RUN, b'{"a":' * 40_000, {}),
        "number": (RUN, f'{{"seed": {number}}}'.encode(), {}),
        "fraction": (RUN, f'{{"fps": 1.{number}}}'.encode(), {}),
        "number as text": (RUN, f'{{"seed": "{number}", "image_url": "x"}}'.encode(), {}),
        "escapes": (RUN, b'{"a": "' + b"\\u0041" * 4 * MB + b'"}', {}),
        "text": (RUN, b'{"a": "' + b"x" * 30 * MB + b'"}', {}),
        "no text": (RUN, b"\xff" * 30 * MB, {}),
        "parts": ("/fal/cdn/upload/00000000/" + "0" * 32 + ".png/complete?token=x", parts, {}),
        # The page.
        "event of lists": (PREDICT, event(lists), {}),
        "event of text": (PREDICT, event(f'"{"x" * 25 * MB}"'), {}),
        "joined lists": (JOIN, event(lists), {}),
        "joined number": (JOIN, event(number), {}),
        "mcp": (MCP, f'{{"jsonrpc": "2.0", "params": [{lists}]}}'.encode(), {}),
        "login": ("/login", b"&" * 60_000, {"Content-Type": "application/x-www-form-urlencoded"}),
        "files": ("/gradio_api/upload", files, form),
        "boundaries": ("/gradio_api/upload", b"--b\r\n" + b"\r\n--" * 2 * MB, form),
        "header of a file": ("/gradio_api/upload", b"--b\r\n" + b"a: b\r\n" * MB, form),
        # Headers; these come without a body.
        "languages": ("/config", b"", {"Accept-Language": "a;q=0.1," * 7_000}),
        "cookies": ("/config", b"", {"Cookie": "a=b;" * 15_000}),
        "many headers": ("/fal/health", b"", {f"x-{n}": "1" for n in range(2_000)}),
        "ranges": ("/fal/cdn/files/a/b", b"", {"Range": "bytes=" + "0-1," * 15_000}),
        "host": ("/config", b"", {"Host": "a." * 30_000}),
        "origin": ("/config", b"", {"Origin": "http://" + "[" * 60_000}),
        "key": ("/fal/queue/a/b", b"", {"Authorization": "Key " + ":" * 60_000}),
        "lifecycle": ("/fal/cdn/files/upload", b"a", {"x-fal-object-lifecycle": "[" * 60_000}),
        "target": ("/fal/proxy", b"", {"x-fal-target-url": "https://fal.run/" + "../" * 20_000}),
        "segments": ("/fal/queue/fal-ai/stable-video" + "/requests/x" * 5_000, b"", {}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser("hostile", __doc__).parse_args(argv)
    with running_server(*STUB_SERVER, api_keys=KEY) as server:
        worst = {kind: 1000 * worst_s(server, one) for kind, one in hostile_requests().items()}
    targets = [Target(kind, kind, MOST_MS, "ms") for kind in worst]
    return report(targets, {**worst, "worst_ms": max(worst.values())}, options.check)


def worst_s(server: Server, request: HostileRequest) -> float:
    """Most processor seconds that the server spends on a poll while it handles `request`."""
    path, body, headers = request
    default = {"Content-Type": "application/json"}
    if path.startswith("/fal/"):
        default["Authorization"] = f"Key {KEY}"
    request_headers = default | {**headers}
    sending = threading.Thread(target=server.request, args=(path, body, request_headers))
    sending.start()
    worst = 0.0
    while sending.is_alive():
        before = server.cpu_s()
        assert server.request("/fal/health")[0] == 200
        worst = max(worst, server.cpu_s() - before)
        sending.join(PAUSE_S)
    return worst
