"""FCN-ResNet50 behind HTTP, as AC-Prof's tutorial serves it, on ONNX Runtime.

``POST /predict`` takes JSON: ``tensor``, a normalised image of shape (1, 3, H, W) as nested lists,
and ``orig_size``, the [height, width] of the answer (by default H, W). It answers
``segmentation``, the class of each pixel.
``GET /health`` answers once the network is loaded.

Environment: THREADS (of one inference; all CPUs of the process if it is not set), PORT (8006).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnxruntime
from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler, make_server

MODEL = Path(__file__).with_name("fcn_resnet50.onnx")
LONGEST_SIDE = 4096
"""Of an image and of an answer: what comes in must not decide how much memory goes."""
MAX_BODY_BYTES = 1 << 28


class BadRequest(ValueError):
    """A request that cannot be answered; its message goes to the client."""


class Network:
    """The network, loaded."""

    def __init__(self, model: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # under a CPU quota a thread that spins takes the time that the next inference needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=_providers())
        self.provider: str = self.session.get_providers()[0]

    def segment(self, tensor: Any, size: tuple[int, int]) -> Any:
        """The class of each pixel, (height, width) of int, at another size by nearest neighbour."""
        (scores,) = self.session.run(["out"], {"image": tensor})
        return nearest(scores[0].argmax(axis=0), size)


def _providers() -> list[str]:
    here = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in here:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if any(Path("/dev").glob("nvidia[0-9]*")):
        # it would answer, far slower, and be taken for a GPU
        sys.exit("the container has a GPU, but this image's ONNX Runtime is made for CPUs")
    return ["CPUExecutionProvider"]


def nearest(classes: Any, size: tuple[int, int]) -> Any:
    """A map of classes at another (height, width): the class at each new pixel's centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, classes.shape, strict=True)
    )
    return classes[rows[:, None], columns]


def read_request(document: Any) -> tuple[Any, tuple[int, int]]:
    """Tensor and size of the answer. Raises BadRequest."""
    if not isinstance(document, dict) or "tensor" not in document:
        raise BadRequest("the body is JSON with 'tensor' and 'orig_size'")
    try:
        tensor = np.asarray(document["tensor"], dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise BadRequest(
            "'tensor' is not nested lists of numbers, all of the same length"
        ) from error
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3) or 0 in tensor.shape:
        raise BadRequest(f"'tensor' has the shape {list(tensor.shape)}, not [1, 3, H, W]")
    if max(tensor.shape) > LONGEST_SIDE:
        raise BadRequest(f"'tensor' has a side of more than {LONGEST_SIDE}")
    if not np.isfinite(tensor).all():
        raise BadRequest("'tensor' has values that are not finite")
    size = document.get("orig_size", list(tensor.shape[2:]))
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 1 <= side <= LONGEST_SIDE for side in size)
    ):
        raise BadRequest(f"'orig_size' is not [height, width], each from 1 to {LONGEST_SIDE}")
    return tensor, (size[0], size[1])


def make_app(network: Network) -> Flask:
    """The web application."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "provider": network.provider}

    @app.post("/predict")
    def predict() -> Response:
        try:
            # whatever content type the client says
            tensor, size = read_request(request.get_json(force=True, silent=True))
        except BadRequest as error:
            return answer({"error": str(error)}, 400)
        return answer({"segmentation": network.segment(tensor, size).tolist()})

    return app


def answer(document: dict[str, Any], status: int = 200) -> Response:
    """JSON without blanks: an answer has a number for each pixel."""
    body = json.dumps(document, separators=(",", ":"))
    return Response(body, status, mimetype="application/json")


class Handler(WSGIRequestHandler):
    """HTTP/1.1, so that a client may keep its connection; no line for each request."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: it would be measured along."""


def main() -> None:
    """Serve until SIGTERM."""
    threads = int(os.environ.get("THREADS") or len(os.sched_getaffinity(0)))
    port = int(os.environ.get("PORT") or 8006)
    network = Network(MODEL, threads)
    server = make_server("0.0.0.0", port, make_app(network), threaded=True, request_handler=Handler)

    def stop(signum: int, frame: FrameType | None) -> None:
        # not from here: shutdown waits for the loop that this interrupts
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"{network.provider}, {threads} threads, port {port}", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
