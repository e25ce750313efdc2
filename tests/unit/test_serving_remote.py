"""A Triton that already runs: addresses, headers, refusals; secrets stay secret."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

import pytest

from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.monitors import TritonApi
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import ServeOptions, deploy
from igniter_prof.serving.remote import parse_address, parse_header

DEVICE = Device(id="cpu:0", kind="cpu", name="x", cores=(0,))
SECRET = "Bearer hunter2"


class FakeTriton(BaseHTTPRequestHandler):
    """Answers as a Triton with the model ``mlp`` that wants a token."""

    ready = True
    slow = 0
    """That many of the next questions after a model get no answer."""

    def do_GET(self) -> None:
        if self.path.startswith("/v2/models/") and type(self).slow > 0:
            type(self).slow -= 1
            self.close_connection = True
            return
        answers: dict[str, dict[str, object]] = {
            "/v2/health/ready": {},
            "/v2": {"name": "triton", "version": "2.51.0"},
            "/v2/models/mlp": {"name": "mlp", "inputs": [{"name": "x"}]},
            "/v2/models/mlp/ready": {},
            "/v2/models/a%20b%3Fc": {"name": "a b?c", "inputs": [{"name": "x"}]},
            "/v2/models/a%20b%3Fc/ready": {},
            "/v2/models/stats": {"model_stats": [{"name": "mlp"}]},
        }
        status = 200 if self.path in answers else 400
        if self.headers.get("Authorization") != SECRET:
            status = 401
        elif self.path.endswith("ready") and not self.ready:
            status = 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answers.get(self.path, {"error": "unknown"})).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def serve(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeTriton)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def address() -> Iterator[str]:
    yield from serve()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    path = tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(path), "-out", str(tmp_path / "public.pem")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (tmp_path / "public.pem").read_text())
    return path


def remote(address: str, **more: object) -> ServeOptions:
    headers = (("Authorization", SECRET),)
    return ServeOptions(runtime="remote", address=address, **{"headers": headers, **more})  # type: ignore[arg-type]


def test_a_remote_model_is_an_endpoint_without_usage(address: str) -> None:
    with deploy(DEVICE, [Tenant(model="mlp")], options=remote(address)) as deployment:
        endpoint = deployment.endpoints[0]
        assert endpoint.http_address == address
        assert (endpoint.tls, endpoint.host, endpoint.pid) == (False, "127.0.0.1", None)
        assert endpoint.ready_s is None
        assert deployment.usage(0) is None
        assert deployment.ending(0) is None
        assert deployment.log_tail(0) == ""
        assert deployment.conditions() == {"runtime": "remote", "triton": "2.51.0"}
        assert deployment.headers == (("Authorization", SECRET),)
        assert SECRET not in endpoint.model_dump_json()


def test_a_remote_server_that_goes_away_has_crashed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deploy(DEVICE, [Tenant(model="mlp")], options=remote(address)) as deployment:
        monkeypatch.setattr(FakeTriton, "ready", False)
        ending = deployment.ending(0)
        assert ending is not None
        assert ending[0] == "crashed"
        assert "503" in ending[1]


def test_a_single_question_without_an_answer_is_no_crash(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deploy(DEVICE, [Tenant(model="mlp")], options=remote(address)) as deployment:
        monkeypatch.setattr(FakeTriton, "slow", 1)
        assert deployment.ending(0) is None
        assert FakeTriton.slow == 0


def test_a_server_that_leaves_between_two_questions_is_an_outside_failure(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTriton, "slow", 1)
    with (
        pytest.raises(OutsideFailure, match="'mlp'"),
        deploy(DEVICE, [Tenant(model="mlp")], options=remote(address)),
    ):
        pass


def test_names_of_models_are_quoted(address: str) -> None:
    with deploy(DEVICE, [Tenant(model="a b?c")], options=remote(address)) as deployment:
        assert deployment.ending(0) is None
        api = TritonApi(deployment.endpoints[0], headers=deployment.headers)
        assert api.metadata()["name"] == "a b?c"


def test_tls_is_checked_against_the_given_certificate(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for address in serve(context):
        url = f"https://{address}"
        options = remote(url, ca_file=certificate)
        with deploy(DEVICE, [Tenant(model="mlp")], options=options) as deployment:
            assert deployment.endpoints[0].tls
            assert deployment.ca_file == certificate
        with (
            pytest.raises(OutsideFailure, match="certificate"),
            deploy(DEVICE, [Tenant(model="mlp")], options=remote(url)),
        ):
            pytest.fail("its certificate is nobody's")


@pytest.mark.parametrize(
    ("tenant", "message"),
    [
        (Tenant(model="mpl"), "no model 'mpl'"),
        (Tenant(model="mlp", share_pct=50), "no shares"),
        (Tenant(model="mlp", memory_mib=50), "no caps"),
    ],
)
def test_what_a_remote_server_cannot_do_is_refused(
    address: str, tenant: Tenant, message: str
) -> None:
    with (
        pytest.raises(BadInput, match=message) as refusal,
        deploy(DEVICE, [tenant], options=remote(address)),
    ):
        pytest.fail("it cannot be served")
    if tenant.model == "mpl":
        assert "did you mean 'mlp'" in str(refusal.value)


@pytest.mark.parametrize("value", ["Bearer wrong-secret", "line\r\nbreak-secret"])
def test_a_refused_header_is_not_repeated(address: str, value: str) -> None:
    options = remote(address, headers=(("Authorization", value),))
    with (
        pytest.raises(OutsideFailure) as refusal,
        deploy(DEVICE, [Tenant(model="mlp")], options=options),
    ):
        pytest.fail("it refuses us")
    assert "secret" not in f"{refusal.value}{options!r}"


def test_nobody_at_the_address_is_an_outside_failure() -> None:
    with (
        pytest.raises(OutsideFailure, match="no Triton answers"),
        deploy(DEVICE, [Tenant(model="mlp")], options=remote("127.0.0.1:1")),
    ):
        pytest.fail("there is none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", "host:8000", False)),
        ("host:9", ("host", "host:9", False)),
        ("http://host:9/", ("host", "host:9", False)),
        ("https://host", ("host", "host:443", True)),
        ("https://[::1]:9", ("::1", "[::1]:9", True)),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, bool]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "ftp://host",
        "host:port",
        "host:99999",
        "host:0",
        "a..b:80",
        "http://host/path",
        "http://me:pw@host",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(text: str | None) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_address(text)
    assert refusal.value.where == "address"
    assert "pw" not in str(refusal.value)


def test_headers() -> None:
    assert parse_header("Authorization: Bearer a:b") == ("Authorization", "Bearer a:b")
    for text in ("no colon", ": value", "a: b\nc: d"):
        with pytest.raises(BadInput):
            parse_header(text)
