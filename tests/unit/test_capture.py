"""The sniffer's dissection, packet by packet, and what it refuses to guess."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.capture import bpf, clocks, interfaces, pcap, ring
from igniter_prof.capture.exchanges import (
    LOST,
    MIDWAY,
    OPEN,
    PAIRED,
    RESET,
    UNANSWERED,
    Exchange,
    Ledger,
)
from igniter_prof.capture.packets import Dissector, Server
from igniter_prof.errors import BadInput
from tests.capture_packets import (
    ACK,
    CLIENT,
    FIN,
    RST,
    SERVER,
    STEP_NS,
    SYN,
    Talk,
    dissect,
    found,
    ip_packet,
)

GET = b"GET /a?b HTTP/1.1\r\nHost:\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def opened(**more: int) -> Talk:
    talk = Talk(**more)
    talk.open()
    return talk


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!BHBBI", 0, len(payload), kind, flags, stream) + payload


def post(size: int) -> bytes:
    return f"POST /b HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size


def test_a_connection_that_began_before_is_read_from_its_next_request_on() -> None:
    talk = Talk()
    talk.say(0, b"the rest of a body")
    talk.say(1, OK)
    for _ in range(3):
        talk.say(0, GET)
        talk.say(1, OK)
    captured = dissect(talk.packets)
    # the first one only shows that requests and responses are in step again
    assert [each[1] for each in found(captured)] == [MIDWAY, PAIRED, PAIRED]
    assert captured.midway == 1


def test_a_request_whose_packets_were_lost_is_told_and_the_next_ones_are_right() -> None:
    talk = opened()
    for _ in range(4):
        talk.say(0, GET)
        talk.say(1, OK)
    del talk.packets[4]  # the second request
    captured = dissect(talk.packets)
    assert captured.unsolicited == 1
    assert [each[1] for each in found(captured)] == [PAIRED, MIDWAY, PAIRED]


def test_a_lost_packet_within_a_body_costs_nothing() -> None:
    talk = opened()
    talk.say(0, post(3000), cuts=[100, 1000, 2000])
    talk.say(1, OK)
    del talk.packets[3]
    captured = dissect(talk.packets)
    assert found(captured) == [("POST /b", PAIRED, 3042, 43)]
    assert captured.rows["request_end_ns"][0] == 6 * STEP_NS


def test_a_lost_end_of_a_body_costs_the_request() -> None:
    talk = opened()
    talk.say(0, post(3000), cuts=[100, 1000, 2000])
    talk.say(1, OK)
    del talk.packets[5]
    captured = dissect(talk.packets)
    assert [each[1] for each in found(captured)] == [LOST]


def test_resets_and_closes_leave_requests_unpaired() -> None:
    reset, closed, waiting = opened(), opened(), opened()
    for talk in (reset, closed, waiting):
        talk.say(0, GET)
        talk.say(1, OK[:-2])
    reset.raw(1, RST | ACK, 0, 0)
    closed.finish(1)
    outcomes = [found(dissect(talk.packets))[0][1] for talk in (reset, closed, waiting)]
    assert outcomes == [RESET, UNANSWERED, OPEN]


def test_an_early_answer_is_kept_until_the_request_is_over() -> None:
    talk = opened()
    talk.say(0, post(3000)[:1000])
    talk.say(1, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    talk.say(0, post(3000)[1000:])
    row = dissect(talk.packets).rows[0]
    assert row["outcome"] == PAIRED
    assert row["response_end_ns"] < row["request_end_ns"]


def test_ports_may_be_used_again() -> None:
    first, second = opened(), opened(client_isn=77777, server_isn=88888)
    for talk in (first, second):
        talk.say(0, GET)
        talk.say(1, OK)
    first.finish(0)
    first.finish(1)
    captured = dissect(first.packets + second.packets)
    assert [each[1] for each in found(captured)] == [PAIRED, PAIRED]
    assert sorted(captured.rows["connection"]) == [1, 2]


def test_encrypted_connections_are_told_not_guessed() -> None:
    talk = opened()
    talk.say(0, b"\x16\x03\x01\x00\x05hello")
    talk.say(1, b"\x16\x03\x03\x00\x05hello")
    for protocol in ("auto", "http", "grpc"):
        captured = dissect(talk.packets, protocol)
        assert (captured.encrypted, len(captured.rows)) == (1, 0)
    midway = Talk()
    midway.say(0, b"\x17\x03\x03\x00\x05hello")
    assert dissect(midway.packets).encrypted == 1


def test_upgraded_connections_are_opaque_from_then_on() -> None:
    talk = opened()
    talk.say(0, GET)
    talk.say(1, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    talk.say(0, GET)
    captured = dissect(talk.packets)
    assert captured.opaque == 1
    assert [each[1] for each in found(captured)] == [LOST]


def test_what_http_does_not_understand_is_opaque_but_has_turns() -> None:
    talk = opened()
    talk.say(0, b"\x00\x01\x02")
    talk.say(1, b"\x00")
    assert (dissect(talk.packets, "http").opaque, len(dissect(talk.packets, "http").rows)) == (1, 0)
    assert found(dissect(talk.packets, "auto")) == [("", PAIRED, 3, 1)]


def test_bodies_need_not_be_captured_but_heads_do() -> None:
    talk = opened(snap=40 + 60)
    talk.say(0, post(50_000), cuts=[20_000])
    talk.say(1, OK)
    assert found(dissect(talk.packets)) == [("POST /b", PAIRED, 50_043, 43)]
    cut = opened(snap=40 + 10)
    cut.say(0, post(50_000))
    captured = dissect(cut.packets)
    assert (captured.cut, captured.paired.sum()) == (1, 0)


def test_chunks_that_were_cut_away_are_told() -> None:
    talk = opened(snap=40 + 100)
    talk.say(0, GET)
    body = b"40\r\n" + b"x" * 64 + b"\r\n"
    talk.say(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body * 3 + b"0\r\n\r\n")
    captured = dissect(talk.packets)
    assert captured.cut == 1
    assert [each[1] for each in found(captured)] == [LOST]


def test_http2_streams_reset_padded_and_from_before() -> None:
    talk = opened()
    talk.say(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    message = b"\0\0\0\0\x06\x0a\x03mlpz"
    talk.say(0, frame(1, 4, 1, b"h") + frame(0, 0x8 | 0x1, 1, b"\x02" + message + b"\0\0"))
    talk.say(0, frame(1, 5, 3, b"h") + frame(3, 0, 5, b"\0\0\0\0"))
    talk.say(1, frame(3, 0, 3, b"\0\0\0\x08") + frame(7, 0, 0, b"\0" * 8))
    talk.say(1, frame(1, 4, 1, b"h") + frame(0, 0, 1, b"r") + frame(1, 5, 1, b"t"))
    assert found(dissect(talk.packets)) == [("mlp", PAIRED, 33, 30), ("", RESET, 10, 0)]
    # without its begin: the streams that begin later are found all the same
    later = talk.packets[3:]
    got = found(dissect(later, "grpc"))
    assert [each[:2] for each in got] == [("mlp", MIDWAY), ("", RESET)]


def test_grpc_questions_are_no_inferences() -> None:
    talk = opened()
    talk.say(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    messages = {
        "(empty)": b"",  # ServerLive, health
        "mlp (no inputs)": b"\x0a\x03mlp\x12\x011",  # ModelReady, ModelStatistics
        "mlp": b"\x0a\x03mlp\x12\x011\x2a\x01i",
    }
    for stream, message in zip((1, 3, 5), messages.values(), strict=True):
        data = b"\0" + len(message).to_bytes(4, "big") + message
        talk.say(0, frame(1, 4, stream, b"h") + frame(0, 1, stream, data))
        talk.say(1, frame(1, 5, stream, b"t"))
    assert [each[0] for each in found(dissect(talk.packets))] == list(messages)


def test_ipv6_options_vlan_and_merged_segments() -> None:
    six = Talk(client=(b"\1" * 16, 5), server=(b"\2" * 16, 80))
    six.open()
    six.say(0, GET)
    six.say(1, OK)
    assert found(dissect(six.packets, server=Server(b"\2" * 16, 80)))[0][1] == PAIRED
    talk = opened()
    talk.say(0, post(60_000))
    talk.say(1, OK)
    packet = bytearray(talk.packets[2].data)
    packet[2:4] = b"\0\0"  # longer than IPv4 can say (BIG TCP)
    talk.packets[2] = talk.packets[2]._replace(data=bytes(packet))
    captured = dissect(talk.packets)
    assert captured.counters == ((4, 0, 1),)
    assert captured.paired.all()


def test_packets_made_by_scapy_are_read() -> None:
    from scapy.layers.inet import IP, TCP, IPOption
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop

    ends = {"sport": 40000, "dport": 8000}
    for layer in (
        IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption(b"\x01")]),
        IP(src="10.0.0.1", dst="10.0.0.2"),
        IPv6(src="2001::1", dst="2001::2") / IPv6ExtHdrHopByHop(),
        IPv6(src="2001::1", dst="2001::2"),
    ):
        dissector = Dissector([Server(b"", 8000)])
        stamps = [("Timestamp", (1, 2))]
        packets = [
            layer / TCP(**ends, flags="S", seq=9, options=stamps),
            layer / TCP(**ends, flags="PA", seq=10, options=stamps) / GET,
        ]
        for number, packet in enumerate(packets):
            data = bytes(packet)
            dissector.packet(data, 0, len(data), len(data), number)
        dissector.close()
        assert dissector.not_understood == 0
        assert dissector.ledger.labels == [(0, b"GET /a")]


def test_rows_are_read_by_the_processes_that_did_not_write_them() -> None:
    ledger = Ledger()
    exchange = Exchange(7, 3, 11)
    exchange.label, exchange.up = b"x", 5
    ledger.add(exchange, UNANSWERED)
    from igniter_prof.capture.live import ROW_DTYPE

    row = np.frombuffer(bytes(ledger.rows), ROW_DTYPE)[0]
    assert (row["connection"], row["outcome"], row["request_ns"]) == (7, UNANSWERED, 11)
    assert (row["response_ns"], row["request_bytes"]) == (-1, 5)
    assert ledger.labels == [(3, b"x")]


def test_the_capturing_process_imports_nothing_heavy() -> None:
    root = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import igniter_prof.capture.worker\n"
        "print([name for name in ('numpy', 'pydantic', 'pandas', 'scapy', 'dataclasses')"
        " if name in sys.modules])"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- files -----------------------------------------------------------------------------------


def conversation() -> Talk:
    talk = opened()
    talk.say(0, GET)
    talk.say(1, OK)
    talk.finish(0)
    talk.finish(1)
    return talk


def test_files_of_scapy_are_read_in_every_form(tmp_path: Path) -> None:
    from scapy.layers.inet import IP
    from scapy.layers.l2 import CookedLinux, Dot1Q, Ether
    from scapy.utils import PcapNgWriter, PcapWriter

    talk = conversation()
    for name, link, kind in (
        ("ether", Ether(), 1),
        ("vlan", Ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6), 1),
        ("cooked", CookedLinux(), 113),
        ("raw", None, 101),
    ):
        packets = []
        for each in talk.packets:
            packet = IP(each.data) if link is None else link / IP(each.data)
            packet.time = 1000 + each.time_ns / 1e9
            packets.append(packet)
        for form, options in (
            ("pcap", {}),
            ("nano", {"nano": True}),
            ("big", {"endianness": ">"}),
            ("gzip", {"gz": True}),
            ("ng", None),
        ):
            path = tmp_path / f"{name}.{form}"
            if options is None:
                writer = PcapNgWriter(str(path))
            else:
                writer = PcapWriter(str(path), linktype=kind, **options)
            for packet in packets:
                writer.write(packet)
            writer.close()
            captured = pcap.read(path, [Server(b"", 0)])
            assert found(captured) == [("GET /a", PAIRED, 28, 43)], (name, form)
            assert captured.notes == ()
            assert captured.servers == ((SERVER[0], SERVER[1]),)
            assert captured.rows["request_ns"][0] == pytest.approx(1000e9 + 3 * STEP_NS, abs=1000)


def test_both_copies_of_a_packet_on_the_loopback_count_once() -> None:
    head = struct.pack("!HHH8sH", 4, 772, 6, b"", 0x0800)
    assert pcap.ip_begin(113, head) == -1
    assert pcap.ip_begin(113, b"\0\0" + head[2:]) == 16
    assert pcap.ip_begin(276, struct.pack("!HHIHBB8s", 0x86DD, 0, 1, 772, 4, 6, b"")) == -1
    assert pcap.ip_begin(105, b"") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no capture file"),
        (b"hello world", "no capture file"),
        (struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 105) + b"\0" * 16, "link type 105"),
        (b"\x0a\x0d\x0d\x0a" + b"\0" * 40, "damaged"),
        (
            struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1)
            + struct.pack("=IIII", 1, 1, 1 << 30, 5),
            "damaged",
        ),
    ],
)
def test_files_that_are_no_captures_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        pcap.read(tmp_path / "x", [Server(b"", 0)])


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    header = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 9, 101)
    records = [
        struct.pack("=IIII", 1, p.time_ns, len(p.data), p.wire) + p.data
        for p in conversation().packets
    ]
    whole = header + b"".join(records)
    for name, content in (("a", whole[:-3]), ("b", gzip.compress(whole)[:-9])):
        (tmp_path / name).write_bytes(content)
        captured = pcap.read(tmp_path / name, [Server(b"", 0)])
        assert "breaks off" in captured.notes[0]
        assert captured.paired.sum() <= 1
    with pytest.raises(BadInput, match="no such file"):
        pcap.read(tmp_path / "c", [])


# --- the kernel's side -----------------------------------------------------------------------


def passes(program: bytes, packet: bytes) -> int:
    """Run a classic BPF program, as the kernel would; returns how many bytes are kept."""
    code = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    a = x = at = 0
    memory = [0] * 16
    while True:
        op, true, false, k = code[at]
        at += 1
        kind, size, mode = op & 7, op & 0x18, op & 0xE0
        width = {0: "!I", 8: "!H", 16: "!B"}.get(size, "!I")
        if kind in (0, 1):
            if mode == 0xA0:
                value = (packet[k] & 0xF) * 4
            elif mode == 0x60:
                value = memory[k]
            elif mode == 0x00:
                value = k
            elif mode == 0x80:
                value = len(packet)
            else:
                place = k + (x if mode == 0x40 else 0)
                if place + struct.calcsize(width) > len(packet):
                    return 0
                (value,) = struct.unpack_from(width, packet, place)
            a, x = (value, x) if kind == 0 else (a, value)
        elif kind in (2, 3):
            memory[k] = a if kind == 2 else x
        elif kind == 4:
            other = x if op & 8 else k
            operation = op & 0xF0
            a = {
                0x00: a + other, 0x10: a - other, 0x20: a * other, 0x40: a | other,
                0x50: a & other, 0x60: a << (other & 31), 0x70: a >> (other & 31),
            }[operation] & 0xFFFFFFFF  # fmt: skip
        elif kind == 5:
            other = x if op & 8 else k
            operation = op & 0xF0
            if operation == 0:
                at += k
            else:
                yes = {0x10: a == other, 0x20: a > other, 0x30: a >= other, 0x40: a & other}
                at += true if yes[operation] else false
        elif kind == 6:
            return k
        else:
            a, x = (a, a) if op & 0xF8 == 0 else (x, x)


def test_the_filter_takes_what_matters_of_the_servers_only() -> None:
    six = (b"\1" * 16, 5), (b"\2" * 16, 80)
    servers = [Server(SERVER[0], SERVER[1]), Server(six[1][0], 80)]
    program = bpf.compile_program(bpf.expression(servers), 1024)
    everything = bpf.compile_program(bpf.expression(servers, all_packets=True), 99)
    for source, target in ((CLIENT, SERVER), (SERVER, CLIENT), six, six[::-1]):
        for flags, payload, kept in (
            (ACK, b"data", True),
            (SYN, b"", True),
            (FIN | ACK, b"", True),
            (RST, b"", True),
            (ACK, b"", False),
        ):
            packet = ip_packet(source, target, 1, 1, flags, payload)
            assert passes(program, packet) == (1024 if kept else 0)
            assert passes(everything, packet) == 99
    other = ip_packet(CLIENT, (SERVER[0], 8001), 1, 1, ACK, b"data")
    assert passes(program, other) == passes(everything, other) == 0


def test_addresses_from_128_on_are_taken() -> None:
    bridge = (bytes([172, 17, 0, 2]), 8000)  # where containers are
    program = bpf.compile_program(bpf.expression([Server(*bridge)]), 99)
    assert passes(program, ip_packet(CLIENT, bridge, 1, 1, ACK, b"data")) == 99
    other = (bytes([172, 17, 0, 3]), 8000)
    assert passes(program, ip_packet(CLIENT, other, 1, 1, ACK, b"data")) == 0


def test_a_filter_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="libpcap"):
        bpf.compile_program("tcp and and", 5)


def test_a_ring_is_read_block_by_block() -> None:
    block = bytearray(ring.BLOCK_BYTES * 2)
    head = struct.pack("=IIIII", 3, 0, 1, 2, 48)
    block[: len(head)] = head
    for number, at in enumerate((48, 248)):
        record = struct.pack("=IIIIIIHH", 200, 5, 6 + number, 10, 1500, 0, 0, 100)
        block[at : at + len(record)] = record
    read = ring.Ring.__new__(ring.Ring)
    read.memory, read._blocks, read._next = block, 2, 0  # type: ignore[assignment]
    got: list[tuple[int, ...]] = []
    assert read.backlog() == 0.5
    assert read.take(lambda memory, *rest: got.append(rest))
    assert got == [(148, 10, 1500, 5_000_000_006), (348, 10, 1500, 5_000_000_007)]
    assert not read.take(lambda *_: None)
    assert read.backlog() == 0


def test_times_follow_the_wall_clock_when_it_is_set() -> None:
    second = 1_000_000_000
    readings = clocks.Readings()
    start, offset = readings.kept[0]
    readings.kept += [
        clocks.Offset(start + 10 * second, offset),
        clocks.Offset(start + 11 * second, offset + 3600 * second),
    ]
    true = np.array([start + 5 * second, start + 20 * second, -1])
    wall = np.array([true[0] + offset, true[1] + offset + 3600 * second, -1])
    assert (readings.to_monotonic(wall) == true).all()
    assert readings.stepped
    fresh = clocks.Readings()
    fresh.read()
    assert not fresh.stepped
    assert abs(int(fresh.to_monotonic(np.array([time.time_ns()]))[0]) - time.monotonic_ns()) < 1e8


def test_interfaces_are_found() -> None:
    assert interfaces.leading_to(b"\x7f\0\0\1") == "lo"
    assert interfaces.leading_to(b"\0" * 15 + b"\1") == "lo"
    assert interfaces.is_loopback("lo")
    assert interfaces.mtu("lo")
    assert interfaces.resolve("::1") == [b"\0" * 15 + b"\1"]
    assert interfaces.resolve("127.0.0.1") == [b"\x7f\0\0\1"]
    with pytest.raises(BadInput, match="no network interface"):
        interfaces.check("nonesuch0")
    with pytest.raises(BadInput, match="no address"):
        interfaces.resolve("no..host")
