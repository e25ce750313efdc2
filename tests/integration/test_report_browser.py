"""A report in a real browser: it shows every section, reports no error and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from igniter_prof.reporting import write_report
from tests import reporting_samples as samples

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


def browse(page: Path, work: Path) -> tuple[str, str, list[str]]:
    """Open a page headless: its DOM, the browser's log, and the addresses that it asked for."""
    assert BROWSER is not None
    net_log = work / "net.json"
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            # an address that is asked for fails here, and is in the log
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={work / 'browser'}",
            f"--log-net-log={net_log}",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr, _requested(net_log)


def _requested(net_log: Path) -> list[str]:
    text = net_log.read_text()
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:
        # a browser that ends early leaves the last line open
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    asked = [event.get("params", {}) for event in events]
    # the browser asks its maker for this and that; what a page asks for has an origin
    urls = {a["url"] for a in asked if a.get("initiator", "not an origin") != "not an origin"}
    return sorted(url for url in urls if url.startswith(("http", "ws", "ftp")))


def console_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = {"mlp": "<script>document.title='owned'"}
    return write_report(samples.write_all(folder, names), folder / "REPORT.html")[0]


def test_a_browser_shows_the_report_without_a_network(report: Path, tmp_path: Path) -> None:
    dom, log, requested = browse(report, tmp_path)
    for section in ("profile", "coefficients", "plan", "result"):
        assert f'<section id="{section}">' in dom
    assert dom.count("<svg") == 9
    # what would be cut off or reordered had the markup been broken
    assert dom.rstrip().endswith("</html>")
    assert dom.index("</main>") < dom.index("<footer>")
    assert "<title>igprof report: profile, coefficients, plan, result</title>" in dom
    assert not re.search(r"<script", dom)
    assert console_lines(log) == []
    assert requested == []


def test_a_browser_shows_a_sweep_over_containers(tmp_path: Path) -> None:
    found = samples.container_measurements("<b>model", scales=4)
    profile = samples.write_profile(tmp_path / "profile", found)
    page = write_report([profile], tmp_path / "REPORT.html")[0]
    (tmp_path / "work").mkdir()
    dom, log, requested = browse(page, tmp_path / "work")
    assert dom.count("<svg") == 10
    assert dom.rstrip().endswith("</html>")
    assert "<b>" not in dom
    assert console_lines(log) == []
    assert requested == []


def test_the_checks_above_can_fail(report: Path, tmp_path: Path) -> None:
    """The same page with an image from elsewhere and a failing script is caught."""
    page = report.read_text()
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    bad = tmp_path / "bad.html"
    bad.write_text(
        page.replace(
            "</main>", '<img src="http://example.test/x.png"><script>nope()</script></main>'
        )
    )
    (tmp_path / "again").mkdir()
    _, log, requested = browse(bad, tmp_path / "again")
    assert any("nope is not defined" in line for line in console_lines(log))
    assert "http://example.test/x.png" in requested
