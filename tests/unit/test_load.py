"""The load generator against a stand-in server in this process."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.load import Call, CannotTake, Generator, InputSource, Job, LoadError, prepare
from igniter_prof.load import payloads as payloads_module
from igniter_prof.load import samples as samples_module
from igniter_prof.load.arrivals import arrivals_s, burstiness_of
from igniter_prof.load.payloads import input_specs
from igniter_prof.load.samples import scaled_shape
from igniter_prof.records import Load

METADATA: dict[str, Any] = {
    "name": "net",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
}
CONFIG: dict[str, Any] = {
    "max_batch_size": 8,
    "parameters": {
        "native_shape:x": {"string_value": "3,20,20"},
        "scaled_axes:x": {"string_value": "1,2"},
    },
}


# --- arrivals --------------------------------------------------------------------------------


def test_constant_arrivals_have_equal_gaps() -> None:
    times = list(itertools.islice(arrivals_s(Load(kind="constant", rate_rps=50), 1), 100))
    assert np.diff(times) == pytest.approx(0.02)
    assert 0 <= times[0] < 0.02


def test_poisson_arrivals_have_the_rate_and_an_exponentials_spread() -> None:
    times = list(itertools.islice(arrivals_s(Load(kind="poisson", rate_rps=100), 7), 20_000))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.1, 1.0, 4.0, 20.0])
def test_bursty_arrivals_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    load = Load(kind="bursty", rate_rps=100, burstiness=burstiness)
    times = list(itertools.islice(arrivals_s(load, 3), 100_000))
    # the mean of n gaps has a standard error of sqrt(c2 / n)
    assert np.diff(times).mean() == pytest.approx(0.01, rel=4 * (burstiness / 100_000) ** 0.5)
    assert burstiness_of(times) == pytest.approx(burstiness, rel=0.08)
    # requests are told apart by their instants in ns
    assert len({int(instant * 1e9) for instant in times}) == len(times)


def test_burstiness_is_that_of_the_gaps() -> None:
    assert burstiness_of([5.0, 6.0, 7.0, 8.0]) == pytest.approx(0.0, abs=1e-12)
    # gaps 1 and 3: mean 2, variance 1
    assert burstiness_of([4.0, 0.0, 1.0]) == pytest.approx(0.25)


@pytest.mark.parametrize("instants", [[], [1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0, float("inf")]])
def test_too_little_has_no_burstiness(instants: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        burstiness_of(instants)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "bursty", "rate_rps": 1},
        {"kind": "bursty", "burstiness": 2},
        {"kind": "poisson", "rate_rps": 1, "burstiness": 2},
        {"burstiness": 2},
    ],
)
def test_bursty_loads_alone_have_burstiness(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bursty load needs"):
        Load(**fields)


@pytest.mark.parametrize("kind", ["poisson", "bursty"])
def test_arrivals_depend_on_the_seed_only(kind: Any) -> None:
    load = Load(kind=kind, rate_rps=10, burstiness=4 if kind == "bursty" else None)
    first, same, other = (list(itertools.islice(arrivals_s(load, s), 5)) for s in (1, 1, 2))
    assert first == same != other


def test_a_trace_repeats_after_a_mean_gap() -> None:
    times = list(itertools.islice(arrivals_s(Load(kind="trace", trace_s=(1, 2, 4)), 0), 6))
    assert times == pytest.approx([0, 1, 3, 4.5, 5.5, 7.5])


def test_a_closed_loop_has_no_arrivals() -> None:
    with pytest.raises(ValueError, match="closed"):
        arrivals_s(Load(), 0)


# --- payloads --------------------------------------------------------------------------------


def _decode(body: tuple[bytes, int]) -> tuple[dict[str, Any], bytes]:
    payload, header = body
    return json.loads(payload[:header]), payload[header:]


def _prepare(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "batch_size": 2,
        "input_scale": 1.0,
        "source": InputSource(seed=3),
        "protocol": "http",
    }
    return prepare(METADATA, CONFIG, **{**arguments, **changes})


def test_random_payloads_have_the_native_shape_and_differ() -> None:
    payloads = _prepare()
    assert payloads.shapes == {"x": (2, 3, 20, 20)}
    header, raw = _decode(payloads.bodies[0])
    assert header["inputs"][0]["shape"] == [2, 3, 20, 20]
    assert len(raw) == header["inputs"][0]["parameters"]["binary_data_size"] == 2 * 3 * 400 * 4
    assert len({body[0] for body in payloads.bodies}) == len(payloads.bodies) > 1
    assert payloads == _prepare()  # the same seed, the same inputs


def test_the_input_scale_scales_the_scaled_axes() -> None:
    assert _prepare(input_scale=0.5).shapes == {"x": (2, 3, 10, 10)}
    (spec,) = input_specs(METADATA, CONFIG)
    assert scaled_shape(spec, 0.1, {}) == (3, 2, 2)
    assert scaled_shape(spec, 2.0, {"x": (3, 5, 7)}) == (3, 10, 14)


def test_unknown_dynamic_dimensions_are_asked_for() -> None:
    with pytest.raises(BadInput, match="dynamic"):
        prepare(
            METADATA,
            {"max_batch_size": 8},
            batch_size=1,
            input_scale=1.0,
            source=InputSource(),
            protocol="http",
        )


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="does not fit"):
        _prepare(source=InputSource(shapes={"x": (1, 20, 20)}))


def test_what_no_request_could_hold_is_refused() -> None:
    with pytest.raises(CannotTake, match="a request has at most"):
        _prepare(input_scale=1000.0)


def test_grpc_payloads_are_the_same_request() -> None:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest()
    request.ParseFromString(_prepare(protocol="grpc").bodies[0][0])
    _, raw = _decode(_prepare().bodies[0])
    assert request.model_name == "net"
    assert list(request.inputs[0].shape) == [2, 3, 20, 20]
    assert request.raw_input_contents[0] == raw


def test_npz_inputs_are_sent_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    data = np.arange(3 * 3 * 4 * 4, dtype=np.float64).reshape(3, 3, 4, 4)
    np.savez(path, x=data)
    payloads = _prepare(source=InputSource(path=path), batch_size=2)
    assert payloads.shapes == {"x": (2, 3, 4, 4)}
    _, raw = _decode(payloads.bodies[0])
    assert np.frombuffer(raw, np.float32).reshape(2, 3, 4, 4) == pytest.approx(data[:2])


def test_perf_analyzer_json_inputs(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    flat = list(range(12))
    path.write_text(
        json.dumps(
            {
                "data": [
                    {"x": {"content": flat, "shape": [3, 2, 2]}},
                    {"x": {"content": flat, "shape": [3, 2, 2]}},
                ]
            }
        )
    )
    payloads = _prepare(source=InputSource(path=path), batch_size=1)
    _, raw = _decode(payloads.bodies[0])
    assert list(np.frombuffer(raw, np.float32)) == flat


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.npz", b"not a zip", "not a readable"),
        ("in.json", b'{"date": []}', "no list 'data'"),
        ("in.npz", _npz(x=np.zeros((4, 3, 2, 2)))[:-30], "not a readable"),
        ("in.npz", _npy(np.zeros((4, 3, 2, 2))), "is a .npy"),
        ("in.npz", _npz(x=np.float32(1.0)), "'x' is a single value"),
        ("in.npz", _npz(x=np.full((4, 3, 2, 2), "text")), "no FP32"),
        ("in.json", b'{"data": [1, 2]}', "mapping of inputs"),
        ("in.png", b"no image", "no readable image"),
        ("in.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no readable image"),
        ("in.json", b'{"data": [{"y": [1]}]}', "has no 'x'"),
        ("in.json", b'{"data": [{"x": ["a"]}]}', "no FP32 tensor"),
        ("in.txt", b"", "no input format"),
    ],
)
def test_bad_inputs_are_explained(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        _prepare(source=InputSource(path=path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"name": "net", "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]}, "BF16"),
        ({"name": "net"}, "not understood"),
        ({}, "not understood"),
        ({"name": "net", "inputs": [{"name": "x"}]}, "not understood"),
    ],
)
def test_what_a_server_says_of_its_inputs_may_be_unusable(
    metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        input_specs(metadata, CONFIG)


def test_what_is_drawn_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = samples_module.random_array

    def counted(*arguments: Any) -> Any:
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(samples_module, "random_array", counted)
    monkeypatch.setattr(payloads_module, "PAYLOAD_LIMIT_BYTES", 2 * 2 * 3 * 400 * 4)
    assert len(_prepare().bodies) == len(drawn) == 2


def test_random_floats_fill_the_stated_range() -> None:
    config = {
        **CONFIG,
        "parameters": {**CONFIG["parameters"], "value_range:x": {"string_value": "-2,3"}},
    }
    payloads = prepare(
        METADATA, config, batch_size=8, input_scale=1.0, source=InputSource(), protocol="http"
    )
    values = np.frombuffer(_decode(payloads.bodies[0])[1], np.float32)
    assert -2 <= values.min() < -1.9
    assert 2.9 < values.max() <= 3


def test_string_inputs_are_sent_length_prefixed() -> None:
    payloads = prepare(
        {"name": "t", "inputs": [{"name": "s", "datatype": "BYTES", "shape": [-1, 1]}]},
        {"max_batch_size": 4},
        batch_size=2,
        input_scale=1.0,
        source=InputSource(),
        protocol="http",
    )
    _, raw = _decode(payloads.bodies[0])
    assert raw == (b"\x06\x00\x00\x00igprof") * 2


# --- the worker process ----------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave in the middle are part of the tests

    delay_s = 0.0
    status = 200
    stall: tuple[float, float] | None = None
    seen: list[bytes]
    busy = 0
    most_busy = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(body[: int(self.headers["Inference-Header-Content-Length"])])
        with _LOCK:
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        time.sleep(self.server.delay_s)
        with _LOCK:
            self.server.busy -= 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


_LOCK = threading.Lock()


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as http:
        http.seen = []
        thread = threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def _job(server: _Server, load: Load, **changes: Any) -> Job:
    host, port = server.server_address[:2]
    fields: dict[str, Any] = {
        "address": f"{host!s}:{port}",
        "protocol": "http",
        "call": Call(path="/v2/models/net/infer"),
        "bodies": ((b"{}data", 2),),
        "headers": (),
        "load": load,
        "seed": 1,
        "timeout_s": 5.0,
        "cores": (),
    }
    return Job(**{**fields, **changes})


def _run(job: Job, seconds: float) -> Any:
    with Generator() as generator:
        generator.assign(job)
        generator.wait_ready()
        start_ns = time.monotonic_ns()
        generator.start(start_ns)
        time.sleep(seconds)
        end_ns = time.monotonic_ns()
        while not generator.answered_until(end_ns):
            time.sleep(0.02)
            generator.collect()
        generator.stop()
        return generator.rows(), generator.last_report, (start_ns, end_ns)


def test_a_closed_loop_keeps_its_concurrency(server: _Server) -> None:
    server.delay_s = 0.02
    rows, _, _ = _run(_job(server, Load(concurrency=3)), 0.6)
    assert server.most_busy == 3
    assert rows["ok"].all()
    latency_ms = (rows["done_ns"] - rows["sent_ns"]) / 1e6
    assert latency_ms.min() >= 20
    assert (rows["intended_ns"] == rows["sent_ns"]).all()
    assert len(server.seen) >= len(rows) > 30


def test_an_open_loop_keeps_its_schedule_while_answers_are_late(server: _Server) -> None:
    server.delay_s = 0.15
    load = Load(kind="constant", rate_rps=50)
    rows, _, (start_ns, end_ns) = _run(_job(server, load), 1.0)
    intended = np.sort(rows["intended_ns"])
    meant = [start_ns + int(t * 1e9) for t in itertools.islice(arrivals_s(load, 1), len(rows))]
    assert list(intended) == meant
    window = rows[rows["intended_ns"] < end_ns]
    assert 48 <= len(window) <= 51
    late_ms = (window["sent_ns"] - window["intended_ns"]) / 1e6
    assert np.median(late_ms) < 5
    assert server.most_busy >= 6  # 50/s for 150 ms


def test_failures_are_counted_and_classified(server: _Server) -> None:
    server.status = 400
    rows, report, _ = _run(_job(server, Load()), 0.3)
    assert not rows["ok"].any()
    assert set(report.failures) == {"refused"}
    assert "HTTP 400" in report.first_failure


def test_a_dead_server_is_unavailable_and_does_not_make_the_client_spin(server: _Server) -> None:
    job = _job(server, Load(), address="127.0.0.1:9")
    rows, report, _ = _run(job, 0.5)
    assert set(report.failures) == {"unavailable"}
    assert len(rows) < 50


def test_a_silent_server_times_out(server: _Server) -> None:
    server.delay_s = 1.0
    _, report, _ = _run(_job(server, Load(), timeout_s=0.1), 0.4)
    assert set(report.failures) == {"timeout"}


def test_a_killed_worker_is_a_load_error(server: _Server) -> None:
    with Generator() as generator:
        generator.assign(_job(server, Load()))
        generator.wait_ready()
        generator._process.kill()
        generator._process.wait()
        with pytest.raises(LoadError, match="status -9"):
            generator.stop()


def test_a_worker_ends_with_its_parent(server: _Server) -> None:
    generator = Generator()
    generator.assign(_job(server, Load()))
    generator.wait_ready()
    generator.start(time.monotonic_ns())
    generator._channel.close()
    assert generator._process.wait(timeout=5) == 0
