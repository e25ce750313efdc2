from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.monitors import Counted, Scene, Seen
from igniter_prof.monitors.exposition import Sample, samples
from igniter_prof.monitors.metrics import METRICS_DTYPE, MetricsMonitor, metrics, metrics_in
from igniter_prof.records import Device, Endpoint, HttpServer, Tenant

DEVICE = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
S = 1_000_000_000

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="mlp",version="1"} %(ok)d
nv_inference_request_success{model="other",version="1"} 5000
nv_inference_request_failure{model="mlp",reason="OTHER",version="1"} 0
nv_inference_request_failure{model="mlp",reason="BACKEND",version="1"} 2
nv_inference_pending_request_count{model="mlp",version="1"} %(pending)d
nv_inference_queue_duration_us{model="mlp",version="1"} 1234
nv_inference_queue_duration_us{model="other",version="1"} 99
nv_cpu_utilization 0.42
nv_gpu_power_usage{gpu_uuid="GPU-1"} NaN
"""


def test_samples_with_and_without_labels() -> None:
    text = (
        "# TYPE a counter\n#nothing\n\n"
        'a{x="1",y="two"} 3\n  b 4.5e-3 1700000000000\nc{} +Inf\n'
        'd{x="1",} -Inf\ne { x = "1" } 7\r\n'
    )
    assert list(samples(text)) == [
        Sample("a", (("x", "1"), ("y", "two")), 3.0),
        Sample("b", (), 0.0045),
        Sample("c", (), float("inf")),
        Sample("d", (("x", "1"),), float("-inf")),
        Sample("e", (("x", "1"),), 7.0),
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\"b", 'a"b'),
        (r"a\\b", "a\\b"),
        (r"a\nb", "a\nb"),
        (r"a\\nb", "a\\nb"),
        ("},{ =,# 7", "},{ =,# 7"),
        ("Zürich", "Zürich"),
        ("", ""),
    ],
)
def test_escapes_in_labels(written: str, meant: str) -> None:
    (found,) = samples(f'a{{x="{written}",y="z"}} 1')
    assert found.label("x") == meant
    assert found.label("y") == "z"
    assert found.label("w") is None


@pytest.mark.parametrize(
    "wrong",
    [
        "a",
        "a{} ",
        "1a 2",
        "a b",
        "a 1_000",
        "a 0x10",
        "a nan",
        "a 1 2 3",
        "a 1 2.5",
        'a{x="1" 2',
        'a{x="1"y="2"} 3',
        'a{,x="1"} 3',
        'a{x="1",,y="2"} 3',
        'a{x="1",x="2"} 3',
        r'a{x="\t"} 3',
        'a{x="1} 3',
        "a{x=1} 3",
        "<html>",
    ],
)
def test_what_is_no_sample_is_refused_with_its_line(wrong: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        list(samples(f"good 1\n{wrong}\n"))


def rows(seconds: list[float], **columns: list[float]) -> np.ndarray:
    found = np.array([(0, np.nan, np.nan, np.nan)] * len(seconds), METRICS_DTYPE)
    found["at_ns"] = [int(at * S) for at in seconds]
    for name, values in columns.items():
        found[name] = values
    return found


def test_counts_are_differences_between_the_edges() -> None:
    series = rows([0, 1, 2, 3], pending=[9, 1, 2, 9], ok=[0, 100, 200, 300], failed=[0, 0, 0, 0])
    last = [
        Sample("nv_inference_count", (("model", "mlp"), ("version", "1")), 7.0),
        Sample("nv_cpu_utilization", (), 0.5),
        Sample("nv_gpu_power_usage", (("gpu_uuid", "GPU-1"),), float("nan")),
        Sample("nv_inference_pending_request_count", (("model", "mlp"),), 2.0),
    ]
    found = metrics_in(series, last, S // 2, 5 * S // 2)
    assert found is not None
    assert found.model_dump() == {
        "samples": 2,
        "pending_mean": 1.5,
        "pending_peak": 2.0,
        "requests_ok": 200,
        "requests_failed": 0,
        "values": {'nv_inference_count{version="1"}': 7.0, "nv_cpu_utilization": 0.5},
    }


def test_a_load_that_ends_between_two_pages_is_not_spread_over_both() -> None:
    # 100 answers a second from 0.5 s on until 2.6 s; the window is from 1 s to 2.5 s
    answers = (np.arange(0.5, 2.6, 0.01) * S).astype(np.int64)
    pages = [0.0, 0.7, 1.7, 4.0]
    counts = [np.searchsorted(answers, at * S) for at in pages]
    series = rows(pages, pending=0, ok=counts, failed=[0, 0, 0, 21])
    found = metrics_in(series, [], S, 5 * S // 2, answers[::-1])
    assert found is not None
    assert found.requests_ok == pytest.approx(150, abs=1)
    assert found.requests_failed == pytest.approx(21 * 80 / 90, abs=1)


def test_what_is_not_told_is_none() -> None:
    found = metrics_in(rows([0, 1]), [], S // 4, S // 2)
    assert found is not None
    assert (found.samples, found.pending_mean, found.requests_ok) == (0, None, None)
    assert metrics_in(rows([0, 1]), [], 0, 2 * S) is None
    assert metrics_in(rows([1, 2]), [], 0, 2 * S) is None


class _Page(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        state = self.server.state
        state["asked"] += 1
        state["threads"].add(threading.get_ident())
        body = state["page"](state["asked"]).encode()
        self.send_response(state["status"](state["asked"]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        server.state = {  # type: ignore[attr-defined]
            "asked": 0,
            "threads": set(),
            "page": lambda asked: PAGE % {"ok": 100 * asked, "pending": asked},
            "status": lambda asked: 200,
        }
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def watch(endpoints: tuple[Endpoint, ...]) -> Seen:
    scene = Scene(
        device=DEVICE, endpoints=endpoints, protocol="http", cores=(), usage=lambda index: None
    )
    with MetricsMonitor(20) as monitor:
        monitor.attach(scene)
        start_ns = time.monotonic_ns()
        time.sleep(0.3)
        end_ns = time.monotonic_ns()
        return monitor.seen(Counted(start_ns, end_ns, (1,) * len(endpoints)))


def endpoint(server: Any, model: str = "mlp", **changes: Any) -> Endpoint:
    return Endpoint(
        tenant=Tenant(model=model),
        model_name=model,
        metrics_address=f"127.0.0.1:{server.server_address[1]}",
        **changes,
    )


def test_each_tenant_gets_its_own_models_metrics(triton: Any) -> None:
    seen = watch((endpoint(triton), endpoint(triton, "other")))
    assert seen.complete, seen.notes
    first, second = (fields["metrics"] for fields in seen.tenants)
    assert first.requests_ok > 0
    assert first.requests_failed == 0
    assert 1 < first.pending_mean <= first.pending_peak
    assert first.values == {
        'nv_inference_queue_duration_us{version="1"}': 1234.0,
        "nv_cpu_utilization": 0.42,
    }
    assert second.requests_ok == 0
    assert second.requests_failed is None  # not told of that model
    assert second.pending_mean is None
    assert second.values['nv_inference_queue_duration_us{version="1"}'] == 99.0
    # one server, asked once for both
    assert len(seen.traces["triton_0"]) == triton.state["asked"]


def test_what_is_no_triton_or_has_no_address_is_a_note(triton: Any) -> None:
    other = endpoint(triton, http=HttpServer())
    seen = watch((other,))
    assert seen.complete
    assert "no Triton" in seen.notes[0]
    assert triton.state["asked"] == 0
    seen = watch((endpoint(triton).model_copy(update={"metrics_address": None}),))
    assert not seen.complete
    assert seen.tenants == ({},)
    assert "tenant 1: the address" in seen.notes[0]


def test_questions_without_an_answer_mark_the_cell(triton: Any) -> None:
    triton.state["status"] = lambda asked: 503 if asked == 3 else 200
    seen = watch((endpoint(triton),))
    assert not seen.complete
    assert seen.tenants[0]["metrics"].requests_ok > 0  # the rest is there
    assert seen.notes == ("tenant 1: unanswered questions: 1 (HTTP 503)",)


def test_a_page_that_is_none_marks_the_cell(triton: Any) -> None:
    triton.state["page"] = lambda asked: "<html>welcome</html>"
    seen = watch((endpoint(triton),))
    assert not seen.complete
    assert seen.tenants == ({},)
    assert "line 1" in seen.notes[0]


def test_a_server_that_is_gone_marks_the_cell(triton: Any) -> None:
    gone = endpoint(triton).model_copy(update={"metrics_address": "127.0.0.1:1"})
    seen = watch((gone,))
    assert not seen.complete
    assert seen.tenants == ({},)
    assert len(seen.notes) == 2


def test_its_argument_is_a_rate_of_one_a_second_at_most() -> None:
    assert metrics(DEVICE, "0.5") is not None
    with pytest.raises(BadInput, match="up to 1"):
        metrics(DEVICE, "2")
