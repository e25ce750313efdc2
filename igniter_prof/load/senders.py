"""One request out, its whole answer in: over HTTP/1.1 or gRPC."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import ssl
import time

from igniter_prof.load.job import Body, Job

CONNECT_S = 5.0
IDLE_S = 0.5
"""A connection that was not used for so long may have been closed by the server meanwhile."""
REMEMBERED = 64
"""Good answers that are known again without being parsed."""


class RequestFailed(Exception):
    """A request without a successful answer; ``kind`` is refused, timeout, or unavailable."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class HttpSender:
    """Sends ready-made bodies over one HTTP connection, kept alive unless the job says not."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._headers = _merged(job.headers)
        self._statuses = frozenset(job.call.statuses)
        if job.call.fresh_connection:
            self._headers["Connection"] = "close"
        self._connection: http.client.HTTPConnection | None = None
        self._used_s = 0.0
        self._good: set[int] = set()

    def connect(self) -> None:
        """Open the connection before the clock runs; if that fails, the first request will tell."""
        if self._job.call.fresh_connection:
            return
        with contextlib.suppress(OSError):
            self._connection = self._connect()
            self._connection.connect()
            self._used_s = time.monotonic()

    def _connect(self) -> http.client.HTTPConnection:
        if self._job.tls:
            context = ssl.create_default_context(cafile=self._job.tls_ca)
            return http.client.HTTPSConnection(
                self._job.address, timeout=self._job.timeout_s, context=context
            )
        return http.client.HTTPConnection(self._job.address, timeout=self._job.timeout_s)

    def send(self, body: Body) -> bytes:
        """Send one request and return its whole answer. Raises RequestFailed."""
        call = self._job.call
        payload, header_length = body
        if header_length:
            self._headers["Inference-Header-Content-Length"] = str(header_length)
        try:
            if self._connection is None:
                self._connection = self._connect()
            elif time.monotonic() - self._used_s > IDLE_S and _was_closed(self._connection):
                self._connection.close()  # the request opens it anew
            self._connection.request(call.method, call.path, payload, self._headers)
            response = self._connection.getresponse()
            answer = response.read()
        except TimeoutError as error:
            self.close()
            raise RequestFailed("timeout", f"no answer in {self._job.timeout_s} s") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise RequestFailed("unavailable", repr(error)) from error
        except ValueError as error:
            # a header with what no header may have: its value must not be repeated
            self.close()
            raise RequestFailed("unavailable", "a header has an invalid value") from error
        if call.fresh_connection:
            self.close()
        else:
            self._used_s = time.monotonic()
        if response.status not in self._statuses:
            kind = "refused" if 400 <= response.status < 500 else "unavailable"
            text = answer[:500].decode(errors="replace")
            raise RequestFailed(kind, f"HTTP {response.status}: {text}")
        return answer

    def judge(self, answer: bytes) -> None:
        """Look into an answer, after the clock was read. Raises RequestFailed if it is not good."""
        field = self._job.call.json_field
        if field is None:
            return
        known = hash(answer)
        if known in self._good:  # parsing a large answer takes longer than many a request
            return
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or field not in document:
            text = answer[:200].decode(errors="replace")
            raise RequestFailed("refused", f"the answer has no field '{field}': {text}")
        if len(self._good) < REMEMBERED:
            self._good.add(known)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _merged(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headers without those that a later one of the same name replaces."""
    last = {name.lower(): (name, value) for name, value in headers}
    return dict(last.values())


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server closed an idle connection (nothing else makes it readable)."""
    if connection.sock is None:
        return False  # nothing is open: the request opens it
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


class GrpcSender:
    """Sends ready-made protobuf messages over one gRPC channel, which all threads share."""

    def __init__(self, job: Job) -> None:
        import grpc

        self._grpc = grpc
        self._timeout_s = job.timeout_s
        self._metadata = tuple((name.lower(), value) for name, value in job.headers)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        if job.tls:
            with_ca = open(job.tls_ca, "rb").read() if job.tls_ca else None  # noqa: PTH123, SIM115
            credentials = grpc.ssl_channel_credentials(with_ca)
            self._channel = grpc.secure_channel(job.address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(job.address, options)
        # bytes in, bytes out: the message was serialised once, the answer is not of interest
        self._call = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def connect(self) -> None:
        """Open the connection before the clock runs; if that fails, the first request will tell."""
        with contextlib.suppress(self._grpc.FutureTimeoutError):
            self._grpc.channel_ready_future(self._channel).result(timeout=CONNECT_S)

    def send(self, body: Body) -> bytes:
        """Send one request and return its answer. Raises RequestFailed."""
        try:
            answer: bytes = self._call(body[0], timeout=self._timeout_s, metadata=self._metadata)
        except self._grpc.RpcError as error:
            code = error.code().name
            kinds = {
                "DEADLINE_EXCEEDED": "timeout",
                "INVALID_ARGUMENT": "refused",
                "UNAUTHENTICATED": "refused",
                "PERMISSION_DENIED": "refused",
                "NOT_FOUND": "refused",
            }
            raise RequestFailed(
                kinds.get(code, "unavailable"), f"{code}: {error.details()}"
            ) from error
        return answer

    def judge(self, answer: bytes) -> None:
        """Nothing: gRPC's status has said it all."""


Sender = HttpSender | GrpcSender
