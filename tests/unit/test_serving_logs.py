"""Triton's log: the line that matters, not the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from igniter_prof.serving import logs

NOISE = """\
E1121 00:47:50.421484 12948 server.cc:241] "CudaDriverHelper has not been initialized."
I1121 00:47:50.422586 12948 model_lifecycle.cc:472] "loading: mlp:1"
"""
TABLE = """\
+-------+---------+----------------------------------+
| mlp   | 1       | UNAVAILABLE: failed to load 'mlp' |
+-------+---------+----------------------------------+
error: creating server: Internal - failed to load all models
"""


def log_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.log"
    path.write_text(text)
    return path


def test_a_server_gives_our_terminal_no_orders(tmp_path: Path) -> None:
    log = log_of(tmp_path, "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b2Jgone\ttab\n")
    assert logs.tail(log) == "red ]0;title2Jgone\ttab"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "E1121 00:47:52.359247 12948 model_lifecycle.cc:642] \"failed to load 'mlp' version 1:"
            " Internal: RuntimeError: weights are missing\\n\\nAt:\\n  /x/model.py(4): initialize"
            '\\n"',
            "RuntimeError: weights are missing",
        ),
        (
            "E1121 00:48:02.756510 13590 model_lifecycle.cc:642] \"failed to load 'mlp' version 1:"
            " Invalid argument: unable to find backend library for backend 'nope'.\"",
            "Invalid argument: unable to find backend library for backend 'nope'.",
        ),
        (
            "[libprotobuf ERROR text_format.cc:337] Error parsing text-format"
            ' inference.ModelConfig: 1:14: Message type "inference.ModelConfig" has no field named'
            ' "max_batchsize".\nE1121 00:48:03.776889 13664 model_repository_manager.cc:1460] "Poll'
            " failed for model directory 'mlp': failed to read text proto from /x/config.pbtxt\"",
            '1:14: Message type "inference.ModelConfig" has no field named "max_batchsize".',
        ),
        (
            "tritonserver: error while loading shared libraries: libpython3.11.so.1.0: cannot open",
            "libpython3.11.so.1.0: cannot open",
        ),
    ],
)
def test_the_cause_is_in_tritons_words(tmp_path: Path, line: str, cause: str) -> None:
    assert logs.cause(log_of(tmp_path, f"{NOISE}{line}\n{TABLE}")) == cause


def test_without_a_known_cause_the_last_error_line_is_shown(tmp_path: Path) -> None:
    text = f'{NOISE}E1121 00:48:03.776889 13664 main.cc:1] "the sky fell"\nI1121 more\n'
    assert logs.cause(log_of(tmp_path, text)) == "the sky fell"
    assert logs.cause(tmp_path / "nowhere") == "the server wrote no log"


@pytest.mark.parametrize(
    "line",
    [
        "E1121 main.cc:257] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:1'"
        ' already in use "',
        "E1121 main.cc:245] \"failed to start GRPC service: Unavailable - Socket '127.0.0.1:1'"
        ' already in use "',
    ],
)
def test_a_taken_port_is_told_from_other_ends(tmp_path: Path, line: str) -> None:
    assert logs.port_taken(log_of(tmp_path, f"{NOISE}{line}\n"))
    assert not logs.port_taken(log_of(tmp_path, NOISE + TABLE))


def test_the_tail_is_bounded_and_has_no_tables(tmp_path: Path) -> None:
    path = log_of(tmp_path, "".join(f"line {number}\n" for number in range(10**5)) + TABLE)
    tail = logs.tail(path).splitlines()
    assert len(tail) == logs.TAIL_LINES
    assert tail[-1].startswith("error: creating server")
    assert tail[-2] == "line 99999"
