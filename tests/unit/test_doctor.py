"""``igprof doctor``: a report with remedies, and a gate with ``--require``."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from igniter_prof.cli import main
from igniter_prof.cli.doctor_verb import command
from igniter_prof.errors import MissingCapability
from igniter_prof.serving import cgroup, checks, interpreter, scope, triton
from igniter_prof.serving.checks import Check

REPORT = [
    Check(name="triton", status="ok", detail="there"),
    Check(name="docker", status="missing", detail="gone", fix="get it", runtimes=("docker",)),
]


@pytest.fixture
def _report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run_checks", lambda: REPORT)


@pytest.mark.usefixtures("_report")
def test_the_report_names_the_remedy_of_what_is_missing() -> None:
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert "docker     missing  gone" in result.output
    assert "-> get it" in result.output


@pytest.mark.usefixtures("_report")
def test_the_report_as_json_is_one_document() -> None:
    result = CliRunner().invoke(command, ["--json"])
    document = json.loads(result.output)
    assert [check["status"] for check in document["checks"]] == ["ok", "missing"]


@pytest.mark.usefixtures("_report")
@pytest.mark.parametrize(("runtime", "status"), [("local", 0), ("docker", 3)])
def test_require_is_a_gate(runtime: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--require", runtime])
    assert (end.value.code or 0) == status
    if status:
        assert "get it" in capsys.readouterr().err


@pytest.fixture
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing: no Triton, no network, no rights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(checks, "_reaches_pypi", lambda: False)
    monkeypatch.setattr(triton, "unsupported", lambda: None)
    monkeypatch.setattr(scope, "available", lambda: False)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]

    def refuse(*args: object, **kwargs: object) -> None:
        raise MissingCapability("it is not there", hint="fetch it")

    def forbid(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cgroup, "create", refuse)
    monkeypatch.setattr(interpreter, "find", refuse)
    monkeypatch.setattr(socket, "socket", forbid)


@pytest.mark.usefixtures("_bare")
def test_a_bare_machine_is_told_how_to_mend_each_thing() -> None:
    found = {check.name: check for check in checks.run_checks()}
    for name in ("triton", "libpython", "docker", "nvml", "mps", "capture"):
        assert found[name].status == "missing", name
        assert found[name].fix, name
    # without control groups models are served still, but without shares
    assert (found["cgroups"].status, found["cgroups"].fix) == ("limited", "fetch it")
    lacking = checks.lacking(list(found.values()), "local")
    assert [check.name for check in lacking] == ["triton", "libpython"]


def test_a_machine_of_another_kind_cannot_run_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton, "unsupported", lambda: "it is for Linux on x86-64")
    check = checks.check_triton()
    assert check.status == "missing"
    assert "x86-64" in check.detail


def test_energy_counters_must_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_rapl(tmp_path).status == "missing"
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.parent.mkdir()
    counter.write_text("1")
    assert checks.check_rapl(tmp_path).status == "ok"
    monkeypatch.setattr("os.access", lambda *args: False)
    check = checks.check_rapl(tmp_path)
    assert check.status == "missing"
    assert check.fix is not None
    assert "chmod" in check.fix
