"""The monitor ``sniffer``: whose requests are whose, and when a cell is marked."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.capture import live
from igniter_prof.capture.exchanges import LOST, PAIRED
from igniter_prof.capture.live import ROW_DTYPE, Captured
from igniter_prof.cli import igprof, sniff_verb
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.monitors import Counted, Scene
from igniter_prof.monitors import sniffer as module
from igniter_prof.monitors.sniffed import remarks
from igniter_prof.monitors.sniffer import Sniffer
from igniter_prof.records import REQUEST_DTYPE, Device, Endpoint, HttpServer, Tenant
from tests.capture_packets import Talk

MS = 1_000_000
DEVICE = Device(id="cpu:0", kind="cpu", name="x", cores=(0,))
LOCAL = socket.inet_aton("127.0.0.1")


def endpoint(name: str, **more: Any) -> Endpoint:
    fields = {"http_address": "127.0.0.1:8000", "grpc_address": "127.0.0.1:8001", "interface": "lo"}
    return Endpoint(tenant=Tenant(model=name), model_name=name, **{**fields, **more})


def rows(*each: tuple[int, int, int]) -> np.ndarray:
    """(label, outcome, ms of the first byte); 1 ms up, 5 ms in the server, 2 ms down."""
    found = np.zeros(len(each), ROW_DTYPE)
    for row, (label, outcome, at_ms) in zip(found, each, strict=True):
        row["label"], row["outcome"] = label, outcome
        row["request_ns"], row["request_end_ns"] = at_ms * MS, (at_ms + 1) * MS
        row["response_ns"], row["response_end_ns"] = (at_ms + 6) * MS, (at_ms + 8) * MS
        row["request_bytes"], row["response_bytes"] = 100, 50
    return found


class FakeCapture:
    """A capture that saw what it is told."""

    answer: Captured

    def __init__(self, interface: str, servers: Any, *, cores: Any = ()) -> None:
        self.interface, self.servers = interface, servers

    def __enter__(self) -> FakeCapture:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end(self) -> Captured:
        return self.answer


def watched(
    monkeypatch: pytest.MonkeyPatch,
    endpoints: tuple[Endpoint, ...],
    captured: Captured,
    protocol: str = "http",
    asked: int = 0,
) -> Any:
    monkeypatch.setattr(module, "Capture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "answer", captured, raising=False)
    monkeypatch.setattr(module.interfaces, "offloads", lambda interface: ())
    scene = Scene(DEVICE, endpoints, protocol, (0,), lambda index: None)
    requests = np.zeros(asked, REQUEST_DTYPE)
    requests["sent_ns"], requests["done_ns"] = 150 * MS, 160 * MS
    requests["ok"] = 1
    with Sniffer(None) as monitor:
        monitor.attach(scene)
        return monitor.seen(
            Counted(100 * MS, 200 * MS, (asked,) * len(endpoints), (requests,) * len(endpoints))
        )


def capture_of(each: np.ndarray, labels: list[tuple[int, str]], **more: Any) -> Captured:
    fields = {"packets": 9, "drops": 0, **more}
    return Captured(
        rows=each,
        labels=tuple(labels),
        servers=((LOCAL, 8000), (LOCAL, 8001)),
        counters=((4, 1, 2), (5, 0, 0)),
        **fields,
    )


INFER = "POST /v2/models/{}/infer"


def test_only_inferences_in_the_window_count(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = capture_of(
        rows((0, PAIRED, 110), (1, PAIRED, 120), (2, PAIRED, 130), (0, PAIRED, 99), (0, LOST, 200)),
        [(0, INFER.format("mlp")), (0, "GET /v2/models/mlp/stats"), (0, INFER.format("other"))],
    )
    seen = watched(monkeypatch, (endpoint("mlp"),), captured, asked=1)
    network = seen.tenants[0]["network"]
    assert (network.requests, network.paired, network.unpaired) == (1, 1, 0)
    assert (network.server.mean_ms, network.total.mean_ms) == (5, 8)
    assert (network.up_ms, network.down_ms) == (1, 2)
    assert (network.packets, network.retransmitted_packets, network.merged_packets) == (4, 1, 2)
    assert (seen.complete, seen.notes) == (True, ())
    assert list(seen.traces["sniffer_0"]["at_ns"] // MS) == [99, 110, 200]


def test_tenants_that_share_a_server_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (endpoint("a"), endpoint("b"))
    for protocol, labels in (
        ("http", [(0, INFER.format("a")), (0, "POST /v2/models/b/versions/1/infer")]),
        ("grpc", [(1, "a"), (1, "b")]),
    ):
        captured = capture_of(rows((0, PAIRED, 110), (1, PAIRED, 120), (1, PAIRED, 130)), labels)
        seen = watched(monkeypatch, both, captured, protocol, asked=2)
        assert [each["network"].requests for each in seen.tenants] == [1, 2]
        # two were sent to each: that one was not seen is said
        assert not seen.complete
        assert seen.notes == ("tenant 1: 1 requests were seen, the client sent 2 to 2",)


def test_another_kind_of_server_is_known_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    http = HttpServer(path="/predict")
    captured = capture_of(rows((0, PAIRED, 110)), [(0, "POST /predict")])
    seen = watched(monkeypatch, (endpoint("x", http=http),), captured, "grpc", asked=1)
    assert seen.tenants[0]["network"].paired == 1


@pytest.mark.parametrize(
    ("more", "outcome", "text"),
    [
        ({"drops": 3}, PAIRED, "dropped 3 packets"),
        ({"stepped": True}, PAIRED, "wall clock"),
        ({"encrypted": 1}, PAIRED, "encrypted"),
        ({"notes": ("the interface went",)}, PAIRED, "the interface went"),
        ({}, LOST, "1 requests unpaired: packets"),
    ],
)
def test_what_was_missed_marks_the_cell(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], outcome: int, text: str
) -> None:
    captured = capture_of(rows((0, outcome, 110)), [(0, INFER.format("mlp"))], **more)
    seen = watched(monkeypatch, (endpoint("mlp"),), captured, asked=1)
    assert not seen.complete
    assert any(text in note for note in seen.notes)


def test_tls_and_places_without_route_are_not_measurable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.interfaces, "leading_to", lambda address: None)
    ends = (
        endpoint("a", tls=True),
        endpoint("b", interface=None),
        endpoint("c", http_address=None),
    )
    seen = watched(monkeypatch, ends, capture_of(rows(), []))
    assert seen.tenants == ({}, {}, {})
    assert not seen.complete
    assert [note.split(": ", 1)[1][:20] for note in seen.notes] == [
        "its connections are ",
        "no interface of this",
        "its address is not k",
    ]


def test_without_the_right_to_capture_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(live.ring, "open_socket", refuse)
    with pytest.raises(MissingCapability, match="CAP_NET_RAW") as error:
        module.sniffer(DEVICE, None)
    assert "setcap" in str(error.value.hint)
    with pytest.raises(BadInput, match="no network interface"):
        module.sniffer(DEVICE, "nonesuch0")


# --- igprof sniff ----------------------------------------------------------------------------


@pytest.fixture
def capture_file(tmp_path: Path) -> Path:
    talk = Talk()
    talk.open()
    for _ in range(3):
        talk.say(0, b"GET /a HTTP/1.1\r\n\r\n")
        talk.say(1, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    talk.say(0, b"GET /b HTTP/1.1\r\n\r\n")
    path = tmp_path / "a.pcap"
    with path.open("wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 9, 101))
        for each in talk.packets:
            out.write(struct.pack("=IIII", 1, each.time_ns, len(each.data), each.wire) + each.data)
    return path


def test_a_file_becomes_a_table_a_document_and_rows(capture_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = CliRunner().invoke(
        igprof, ["sniff", "--read", str(capture_file), "--json", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["network"]["requests"], document["network"]["paired"]) == (4, 3)
    assert document["requests"] == {"10.0.0.2:8000 GET /a": 3, "10.0.0.2:8000 GET /b": 1}
    assert document["outcomes"]["not answered before the capture ended"] == 1
    assert document["packets_dropped"] is None
    lines = out.read_text().splitlines()
    assert lines[0].startswith("connection,server,request,outcome,request_ns")
    assert lines[1].startswith("1,10.0.0.2:8000,GET /a,paired,1000003000,")
    assert ",,," in lines[4]
    shown = CliRunner().invoke(igprof, ["sniff", "--read", str(capture_file), "--port", "8000"])
    assert "4 requests, 3 paired" in shown.stdout
    assert "1 requests unpaired: not answered" in shown.stderr
    other = CliRunner().invoke(igprof, ["sniff", "--read", str(capture_file), "--port", "1"])
    assert "0 requests, 0 paired" in other.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--port", "80"],
        ["--host", "127.0.0.1", "--interface", "nonesuch0"],
        ["--read", "x", "--duration", "1"],
        ["--read", "nonesuch.pcap"],
    ],
)
def test_bad_usage_is_explained(arguments: list[str]) -> None:
    done = CliRunner().invoke(igprof, ["sniff", *arguments])
    assert isinstance(done.exception, BadInput)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--duration", "nan"], "no time"),
        (["--duration", "inf"], "no time"),
        (["--out", "x", "--write", "./x"], "same file"),
    ],
)
def test_mistakes_of_the_verb_are_told_before_anything_is_captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(sniff_verb.command, ["--host", "127.0.0.1", *arguments])
    assert isinstance(done.exception, BadInput)
    assert said in done.exception.what
    assert done.exception.hint


def test_nothing_seen_is_said() -> None:
    none = capture_of(rows(), [])
    assert "no packet was of that server" in remarks(replace(none, servers=()))
    assert remarks(replace(none, packets=0))[0].startswith("no packet passed")
