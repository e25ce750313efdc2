"""``igprof zoo``: what scripts see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from igniter_prof import zoo
from igniter_prof.cli.zoo_verb import command
from igniter_prof.errors import BadInput


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_says_what_there_is() -> None:
    rows = {row["name"]: row for row in json.loads(run("list", "--json"))["networks"]}
    assert rows.keys() == {network.name for network in zoo.networks()}
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["mlp"]["weights"] is None
    run("build", "mlp")
    rows = {row["name"]: row for row in json.loads(run("list", "--json"))["networks"]}
    assert (rows["mlp"]["weights"], rows["mlp"]["file"]) == ("random", str(zoo.build("mlp")))
    assert "61,100,840" in run("list")


def test_build_prints_what_it_built(tmp_path: Path) -> None:
    (built,) = json.loads(run("build", "mlp", "--json"))["built"]
    assert built["sha256"] == zoo.file_hash(Path(built["file"]))
    assert run("build", "mlp") == f"{built['file']}\n"
    folder = run("build", "mlp", "--into", str(tmp_path / "repository")).strip()
    assert (Path(folder) / "config.pbtxt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the networks"),
        (["mlp", "--all"], "name the networks"),
        (["mpl"], "did you mean 'mlp'"),
        (["mlp", "encoder", "--weights", "x.onnx"], "one network"),
        (["mlp", "--weights", "/nonexistent.onnx"], "no such file"),
    ],
)
def test_bad_usage_is_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run("build", *arguments)
