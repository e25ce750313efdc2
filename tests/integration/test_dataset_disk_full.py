"""A disk that really is full: a tiny tmpfs, where this machine lets us mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile
from igniter_prof.errors import MissingCapability
from tests.dataset_samples import cell, manifest, sample


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "igprof-test", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], timeout=30, check=True)


def fill(store: ProfileStore, stored: list[int]) -> None:
    for number in range(1000):
        store.append(*sample(cell(repeat=number), count=2000, start=number))
        stored.append(number)


def test_a_full_disk_loses_nothing_and_the_sweep_goes_on_later(tiny_disk: Path) -> None:
    path = tiny_disk / "p"
    stored: list[int] = []
    with ProfileStore.create(path, manifest()) as store:
        with pytest.raises(MissingCapability, match="no disk space") as caught:
            fill(store, stored)
        assert caught.value.exit_status == 3
    assert len(stored) > 2
    assert check_profile(path) == []
    assert [one.cell.repeat for one in ProfileStore.open(path).measurements()] == stored
    remount = ["mount", "-o", "remount,size=2m", str(tiny_disk)]
    subprocess.run(remount, timeout=30, check=True)
    with ProfileStore.create(path, manifest()) as store:
        store.append(*sample(cell(repeat=len(stored)), count=2000))
        assert len(store.measurements()) == len(stored) + 1


def test_a_new_profile_on_a_full_disk(tiny_disk: Path) -> None:
    with (tiny_disk / "ballast").open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))
    with pytest.raises(MissingCapability, match="no disk space"):
        ProfileStore.create(tiny_disk / "p", manifest())
    (tiny_disk / "ballast").unlink()
    ProfileStore.create(tiny_disk / "p", manifest()).close()
