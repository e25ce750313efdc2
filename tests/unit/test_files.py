from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from igniter_prof import files
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Sweep


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as out:
        out.write(b"new" * (1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_disk_space_is_a_missing_capability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with (
        pytest.raises(MissingCapability, match="no disk space"),
        files.atomic_write(tmp_path / "a") as out,
    ):
        out.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_bad_input(tmp_path: Path) -> None:
    with (
        pytest.raises(BadInput, match="cannot be written"),
        files.atomic_write(tmp_path / "none" / "a"),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "line 1"),
        ("{}\n}", "line 2"),
    ],
)
def test_broken_json_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        files.read_json(path)
    assert message in str(caught.value)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("models: [a\nshares: 1\n")
    with pytest.raises(BadInput, match="line 2"):
        files.read_yaml(path)


BROKEN_YAML = [
    ("models: [a\nshares: 1\n", "line 2", "expected ',' or ']', but got ':'"),
    ("a: 1\nb: [1, 2", "line 2", "but got '<stream end>'"),
    ("a: 1\nb: {c: 1, d", "line 2", "but got '<stream end>'"),
    ('a: 1\nb: "\\q"\n', "line 2", "unknown escape character 'q'"),
    ("a: 1\n b: 2\n", "line 2", "mapping values are not allowed here"),
    ("- a\nb: 1\n", "line 2", "expected <block end>"),
    ("a: &x 1\nb: *y\n", "line 2", "undefined alias 'y'"),
    ("a: 1\nb:\tc\n", "line 2", "found character '\\t'"),
    ("a: 1\n---\nb: 2\n", "line 2", "another document"),
    ("[" * 100_000, "a.yaml", "recursion"),
]


@pytest.mark.parametrize("libyaml", [True, False])
@pytest.mark.parametrize(("text", "where", "what"), BROKEN_YAML)
def test_broken_yaml_says_the_same_with_and_without_libyaml(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    libyaml: bool,
    text: str,
    where: str,
    what: str,
) -> None:
    if not libyaml:
        monkeypatch.setattr(files, "_quick_loader", lambda: None)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadInput) as caught:
        files.read_yaml(tmp_path / "a.yaml")
    assert what in caught.value.what
    assert str(caught.value.where).endswith(where)


def test_yaml_means_the_same_with_and_without_libyaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "base: &b {x: 1.5, y: [on, 2024-01-02, null, 0x1f, '5', \"\\u00e9\"]}\n"
        "list:\n- <<: *b\n  name: |\n    two\n    lines\n- z\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    assert files._quick_loader() is not None
    quick, node = files.read_yaml_node(tmp_path / "a.yaml")
    monkeypatch.setattr(files, "_quick_loader", lambda: None)
    slow, slow_node = files.read_yaml_node(tmp_path / "a.yaml")
    assert quick == slow
    assert node is not None
    assert slow_node is not None
    marks = [
        [item.start_mark.line for item in each.value[1][1].value] for each in (node, slow_node)
    ]
    assert marks == [[2, 6], [2, 6]]
    (tmp_path / "empty.yaml").write_text("")
    assert files.read_yaml_node(tmp_path / "empty.yaml") == (None, None)


def test_binary_and_missing_files_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not a text file"):
        files.read_text(tmp_path / "b")
    with pytest.raises(BadInput, match="no such file"):
        files.read_text(tmp_path / "c")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": [{"name": "a"}], "bach_sizes": [1]}, "did you mean 'batch_sizes'"),
        ({"models": [{"name": "a", "shpes": {}}]}, "did you mean 'shapes'"),
        ({"models": [{"name": "a"}], "stopping": {"mins": 1}}, "did you mean 'min_s'"),
        ({}, "'models' is missing"),
        ({"models": [{"name": "a"}], "repeats": 0}, "'repeats'"),
        ({"models": [{"name": "a"}], "load": {"kind": "poisson"}}, "needs rate_rps"),
        ({"models": [{"name": "a"}], "schema_version": 9}, "schema_version 9"),
        ([], "a mapping was expected"),
    ],
)
def test_a_bad_document_says_what_and_where(document: object, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        files.parse(document, Sweep, "s.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("s.yaml")


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with files.atomic_write(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(BadInput, match="no regular file"),
        files.atomic_write(tmp_path / "pipe"),
    ):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_date_that_is_none_and_a_lone_surrogate_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: 2024-13-45\n")
    with pytest.raises(BadInput, match="not valid YAML"):
        files.read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.json").write_text('{"name": "\\ud800"}')
    with pytest.raises(BadInput, match="not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.atomic_write(tmp_path / "a") as out:
            out.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("base", ["/dev/null", "/proc"])
def test_an_unusable_cache_is_a_missing_capability(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    with pytest.raises(MissingCapability, match=f"{base}/igprof: the cache.*\n.*XDG_CACHE_HOME"):
        files.cache_dir()
    with pytest.raises(MissingCapability):
        files.make_cached(Path(base) / "run")
