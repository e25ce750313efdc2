"""The steps of the GPU campaign that look at the machine: what they save, choose and print."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripts import SCRIPTS, load

FOLDER = SCRIPTS / "gpu_campaign.d"


@pytest.fixture(scope="module")
def probe() -> Iterator[Any]:
    """The module; its neighbours stay importable as long as the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import probe

        yield probe


@pytest.fixture(scope="module")
def verdict(probe: Any) -> Any:
    return probe.verdict


def group(shares: list[float], counts: list[int | None], alone: list[float], kept: float = 1.0):  # type: ignore[no-untyped-def]
    together = [kept * rate for rate in alone]
    return {"shares": shares, "sm_counts": counts, "alone": alone, "together": together}


def work(probe: Any, state: Path, device: str = "cuda:0", program: str = "") -> Any:
    """Work whose Python is a program in the place of the parts' process."""
    python = Path(sys.executable)
    if program:
        python = state / "python"
        python.write_text(
            f"#!{sys.executable}\nimport json, sys, time\nname = sys.argv[2]\n{program}"
        )
        python.chmod(0o755)
    return probe.Work(state, state, device, python, [], state, state, True)


# --- what is chosen ---


def test_shares_that_are_kept_are_obeyed(verdict: Any) -> None:
    found = verdict.judged([group([50, 50], [66, 66], [50, 50]), group([100], [132], [100])])
    assert (found["sm_obeyed"], found["rate_obeyed"], found["obeyed"]) == (True, True, True)
    assert found["concurrent"] is True


def test_sms_that_are_not_kept_to_are_not_obeyed(verdict: Any) -> None:
    whole = group([100], [132], [100])
    for counts, alone in (([132, 132], [50, 50]), ([66, 66], [95, 95])):
        assert verdict.judged([group([50, 50], counts, alone), whole])["obeyed"] is False


def test_the_rate_is_held_against_the_sms_that_were_given(verdict: Any) -> None:
    # a share of 30% rounded down to 32 of 132 SMs
    groups = [group([30], [32], [24.2]), group([100], [132], [100])]
    assert verdict.judged(groups)["obeyed"] is True


def test_those_that_take_turns_are_not_at_once(verdict: Any) -> None:
    groups = [group([50, 50], [66, 66], [50, 50], kept=0.5), group([100], [132], [100])]
    found = verdict.judged(groups)
    assert found["obeyed"] is True
    assert found["concurrent"] is False


def test_what_was_not_measured_is_not_known(verdict: Any) -> None:
    for groups in ([], [{"shares": [50, 50], "error": "no"}], [group([100], [132], [100])]):
        found = verdict.judged(groups)
        assert found["obeyed"] is None
        assert found["concurrent"] is None


@given(
    st.dictionaries(
        st.sampled_from(["mps", "green-context-mps", "green-context"]),
        st.fixed_dictionaries(
            {
                "obeyed": st.sampled_from([True, False, None]),
                "concurrent": st.sampled_from([True, False, None]),
                "groups": st.sampled_from([[{}], [{"error": "no"}], []]),
            }
        ),
    )
)
def test_the_first_that_is_obeyed_at_once_is_chosen(found: dict[str, Any]) -> None:
    verdict = load(FOLDER / "verdict.py")
    name = verdict.mechanism({**found, "device": {}})
    known = [(each, found[each]) for each in verdict.PREFERRED if each in found]
    ranks = {
        each: (bool(of["obeyed"]), bool(of["obeyed"] and of["concurrent"]))
        for each, of in known
        if of["obeyed"] or (of["obeyed"] is None and of["groups"] == [{}])
    }
    if not ranks:
        assert name == "time-slicing"
    else:
        assert ranks[name] == max(ranks.values())
        assert name == next(each for each in ranks if ranks[each] == ranks[name])


# --- the steps ---


def test_no_part_keeps_another_from_being_done(probe: Any, tmp_path: Path) -> None:
    program = """
print("a library's noise")
print(json.dumps({"told": name}), flush=True)
if name == "mps": sys.exit("no daemon")
if name == "nvml":
    import os; os.abort()
"""
    probe.probe(work(probe, tmp_path, program=program), time.monotonic() + 60)
    found = probe.read(tmp_path, "probe.json")
    assert list(found) == list(probe.PARTS)
    assert {part["told"] for part in found.values()} == set(probe.PARTS)
    errors = {name: part["error"] for name, part in found.items() if "error" in part}
    assert errors == {"mps": "no daemon", "nvml": "ended with -6"}
    assert "mps       failed: no daemon" in (tmp_path / "log.txt").read_text()


def test_a_part_that_hangs_is_stopped_and_leaves_what_it_told(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PARTS", {"nvml": 3.0, "green": 20.0})
    monkeypatch.setattr(probe, "LEAST_S", 0.1)
    program = 'print(json.dumps({"told": 1}), flush=True)\nif name == "nvml": time.sleep(60)'
    began = time.monotonic()
    probe.probe(work(probe, tmp_path, program=program), began + 30)
    assert time.monotonic() - began < 30
    found = probe.read(tmp_path, "probe.json")
    assert found == {"nvml": {"told": 1, "error": "stopped after 3 s"}, "green": {"told": 1}}


def test_what_a_part_told_is_kept_where_one_of_its_processes_never_ends(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that hangs in the driver: it keeps the pipe open, and no signal ends it."""
    monkeypatch.setattr(probe, "PARTS", {"nvml": 3.0})
    monkeypatch.setattr(probe, "HUNG_S", 0.3)
    monkeypatch.setattr(probe, "LEAST_S", 0.1)
    program = (
        "import subprocess\n"
        "hung = [sys.executable, '-c', 'import time; time.sleep(25)']\n"
        "left = subprocess.Popen(hung, start_new_session=True)\n"
        'print(json.dumps({"told": left.pid}), flush=True)'
    )
    began = time.monotonic()
    probe.probe(work(probe, tmp_path, program=program), began + 30)
    found = probe.read(tmp_path, "probe.json")["nvml"]
    os.kill(found["told"], signal.SIGKILL)
    assert time.monotonic() - began < 20
    assert found["error"] == "stopped after 3 s"


def test_only_what_failed_is_looked_at_again(probe: Any, tmp_path: Path) -> None:
    parts = {name: {"told": "before"} for name in probe.PARTS}
    parts["mps"] = {"error": "no daemon"}
    (tmp_path / "probe.json").write_text(json.dumps(parts))
    program = 'print(json.dumps({"told": "now"}))'
    probe.probe(work(probe, tmp_path, program=program), time.monotonic() + 60)
    found = probe.read(tmp_path, "probe.json")
    assert {name for name, part in found.items() if part["told"] == "now"} == {"mps"}


def test_without_time_what_there_is_is_kept(probe: Any, tmp_path: Path) -> None:
    with pytest.raises(probe.OutOfTime, match="machine"):
        probe.probe(work(probe, tmp_path), time.monotonic() + 1)


def test_a_rehearsal_looks_at_no_gpu(probe: Any, tmp_path: Path) -> None:
    here = work(probe, tmp_path, "cpu:0")
    for step in (probe.probe, probe.shares, probe.power):
        step(here, time.monotonic() + 60)
    found = probe.read(tmp_path, "probe.json")
    assert found["machine"]["cores"] >= 1
    assert {name for name, part in found.items() if "skipped" in part} == set(found) - {"machine"}
    assert probe.mechanism(tmp_path) == "cfs-quota"
    assert "no GPU" in probe.read(tmp_path, "power.json")["skipped"]


def test_the_chosen_mechanism_is_kept(probe: Any, tmp_path: Path) -> None:
    tried = {"groups": [], "obeyed": True, "concurrent": False}
    program = f"print(json.dumps({{'green-context': json.loads('{json.dumps(tried)}')}}))"
    probe.shares(work(probe, tmp_path, program=program), time.monotonic() + 60)
    assert probe.mechanism(tmp_path) == "green-context"
    assert probe.mechanism(tmp_path / "elsewhere") is None


def test_tables_show_values_errors_and_what_is_missing(probe: Any) -> None:
    lines = "\n".join(
        probe.table(
            {
                "nvml": {"f": {"value": 3, "took_ms": 0.5}, "g": {"error": "Not Supported"}},
                "mps": {"started": False, "error": "no right"},
                "torch": {"skipped": "cpu:0 is no GPU"},
                "periods": {
                    "energy": {
                        "period_ms": 20.0,
                        "sampled_every_ms": 1.25,
                        "lowest": 1.0,
                        "highest": 2.0,
                        "step_to_half_ms": None,
                    }
                },
            }
        )
    )
    assert "nvml      f: 3 (0.5 ms)\nnvml      g: Not Supported" in lines
    assert "mps       failed: no right" in lines
    assert "machine   not done" in lines
    assert "torch     skipped: cpu:0 is no GPU" in lines
    assert "changes every 20 ms, seen every 1.25 ms" in lines
    tried = {"groups": [{"shares": [50.0, 50.0], "error": "no"}], "obeyed": None}
    assert probe.share_lines({"mps": tried}) == [
        "mps: obeyed not known, at once not known",
        "  50+50%: no",
    ]


def test_nothing_of_nvml_is_called_that_changes_anything() -> None:
    text = "".join(path.read_text() for path in FOLDER.glob("*.py"))
    for word in ("DeviceSet", "DeviceReset", "DeviceClear", "GpuInstance", "nvidia-smi -"):
        assert word not in text
