"""The frame of the command line: statuses, streams, text that is only text."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from igniter_prof import cli
from igniter_prof.cli.common import print_json, print_table
from igniter_prof.errors import BadInput, Infeasible


def _status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    code = caught.value.code
    assert isinstance(code, int)
    return code


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli.igprof, "main", fail)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInput("no", where="x.yaml", hint="mend it"), 2),
        (Infeasible("no"), 6),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
    ],
)
def test_a_failure_is_a_message_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    _fail_with(monkeypatch, error)
    assert _status("doctor") == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("igprof: ")
    assert "Traceback" not in shown.err


def test_a_defect_says_where_its_traceback_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    _fail_with(monkeypatch, RuntimeError("oh"))
    assert _status("doctor") == 1
    (stored,) = tmp_path.iterdir()
    assert str(stored) in capsys.readouterr().err
    assert "RuntimeError: oh" in stored.read_text()


@pytest.mark.parametrize("ignored", [True, False])
def test_what_nohup_started_outlives_its_terminal(ignored: bool) -> None:
    code = (
        "import os, signal, sys\n"
        "from igniter_prof import cli\n"
        "cli.igprof.main = lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP) or 0\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if ignored else 'SIG_DFL'})\n"
        "cli.main(['doctor'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert ended.returncode == (0 if ignored else 129)


def test_an_unknown_verb_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert _status("profil") == 2
    assert "did you mean 'profile'" in capsys.readouterr().err


def test_names_in_tables_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("a [/b] title", ["name"], [["[red]x[/nothing]"], [None]])
    shown = capsys.readouterr().out
    assert "[red]x[/nothing]" in shown
    assert "a [/b] title" in shown


def test_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"latency_ms": float("nan")})


def test_an_output_that_is_an_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    path.write_text("{}")
    assert _status("plan", str(path), str(tmp_path / "w.yaml"), "--out", str(path)) == 2
    assert "overwritten" in capsys.readouterr().err
    assert path.read_text() == "{}"


def test_a_missing_folder_of_an_output_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status("evaluate", "plan.json", "--out", str(tmp_path / "no" / "r.json")) == 2
    assert "does not exist" in capsys.readouterr().err


_TELLING = """
import sys
from igniter_prof.cli.common import note, print_table, told_to_terminal
for number in range(3):
    note(f"line {number}")
    sys.stdin.readline()
print_table("t", ["a"], [["x"]])
assert not told_to_terminal()
"""


def test_that_nobody_reads_the_notes_any_more_ends_no_work() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TELLING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process:
        assert process.stderr.readline() == "line 0\n"
        process.stderr.close()
        process.stdin.write("go\ngo\ngo\n")
        process.stdin.close()
        assert "x" in process.stdout.read()
    assert process.returncode == 0


def test_closed_streams_end_no_work() -> None:
    command = 'exec "$0" -c "$1" >&- 2>&- </dev/null'
    done = subprocess.run(["sh", "-c", command, sys.executable, _TELLING], check=False)
    assert done.returncode == 0
