"""Asking a server whether it is there, whoever wrote it."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from igniter_prof import probe


def test_a_body_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BYTES", 100_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                with contextlib.suppress(OSError):  # hung up on
                    for _ in range(1000):  # 100 MB: an end, so that the test has one
                        connection.sendall(b"x" * 100_000)

        thread = threading.Thread(target=serve)
        thread.start()
        status, body = probe.get(f"127.0.0.1:{listener.getsockname()[1]}", "/")
        thread.join()
    assert (status, len(body)) == (200, 100_000)
