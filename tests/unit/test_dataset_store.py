from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import REQUEST_DTYPE, Device, Sweep, SweepModel, Tenant
from tests.dataset_samples import CONDITIONS, DEVICE, cell, manifest, sample, smuggle, write


def test_a_cell_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    pair = cell(Tenant(model="mlp", share_pct=50), Tenant(model="vgg19", share_pct=25))
    measurement, requests = sample(pair, [5.0, 9.0])
    store = ProfileStore.open(write(tmp_path / "p", [(measurement, requests)]))
    assert store.manifest == manifest()
    assert store.done_ids() == {pair.cell_id}
    assert store.measurements() == [measurement]
    read = store.requests(pair.cell_id)
    assert all(part.dtype == REQUEST_DTYPE for part in read)
    for part, original in zip(read, requests, strict=True):
        np.testing.assert_array_equal(part, original)


def test_traces_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    measurement, requests = sample()
    samples = np.array([(1, 2.5), (3, np.nan)], [("at_ns", "<i8"), ("power_w", "<f8")])
    with ProfileStore.create(tmp_path / "p", manifest()) as store:
        store.append(measurement, requests, {"nvml": samples})
        store.append(*sample(cell(repeat=1)))
    store = ProfileStore.open(tmp_path / "p")
    (name,) = found = store.traces(measurement.cell_id)
    assert name == "nvml"
    assert found["nvml"].dtype == samples.dtype
    assert found["nvml"].tobytes() == samples.tobytes()
    assert store.traces(cell(repeat=1).cell_id) == {}
    file = store.cell_path(measurement.cell_id)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadInput, match="damaged"):
        store.traces(measurement.cell_id)


def test_measurements_are_sorted_by_their_start(tmp_path: Path) -> None:
    cells = [sample(cell(repeat=number), start=10 - number) for number in range(5)]
    store = ProfileStore.open(write(tmp_path / "p", cells))
    assert [one.cell.repeat for one in store.measurements()] == [4, 3, 2, 1, 0]


def test_the_same_sweep_resumes_and_keeps_its_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    with ProfileStore.create(path, manifest(created_at="2027-07-07")) as store:
        assert store.manifest == manifest()
        assert store.done_ids() == {cell().cell_id}


def test_another_sweep_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [])
    other = Sweep(models=(SweepModel(name="mlp"),), batch_sizes=(1, 4))
    with pytest.raises(BadInput, match=r"another sweep \(batch_sizes: \(1,\) -> \(1, 4\)\)"):
        ProfileStore.create(path, manifest(sweep=other))
    with pytest.raises(BadInput, match="another --out"):
        ProfileStore.create(path, manifest(source="merged"))
    device = Device(id="cpu:0-3", kind="cpu", name="A CPU")
    with pytest.raises(BadInput, match="the device cpu:0-1"):
        ProfileStore.create(path, manifest(device=device))


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="is not empty and holds no profile"):
        ProfileStore.create(tmp_path, manifest())
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match="is a file"):
        ProfileStore.create(tmp_path / "thesis.tex", manifest())


def test_what_is_no_profile_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no profile"):
        ProfileStore.open(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        ProfileStore.open(tmp_path / "nowhere")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [])
    text = (path / "profile.json").read_text().replace('"schema_version": 1', '"schema_version": 9')
    (path / "profile.json").write_text(text)
    with pytest.raises(BadInput, match="schema_version 9, this igprof reads 1"):
        ProfileStore.open(path)


def test_a_cell_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    file = ProfileStore.open(path).cell_paths()[0]
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    old = members["measurement.json"]
    members["measurement.json"] = old.replace(b'"schema_version":1', b'"schema_version":2')
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BadInput, match="schema_version 2"):
        ProfileStore.open(path).measurements()


def test_two_writers_cannot_share_a_profile(tmp_path: Path) -> None:
    with ProfileStore.create(tmp_path / "p", manifest()):
        with pytest.raises(BadInput, match="another igprof is writing this profile"):
            ProfileStore.create(tmp_path / "p", manifest())
        ProfileStore.open(tmp_path / "p")
    ProfileStore.create(tmp_path / "p", manifest()).close()


def test_leftovers_are_removed_by_a_writer_only(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    leftover = path / "cells" / f".{cell().cell_id}.zip.abc.tmp"
    leftover.write_bytes(b"half")
    assert ProfileStore.open(path).done_ids() == {cell().cell_id}
    assert leftover.exists()
    ProfileStore.create(path, manifest()).close()
    assert not leftover.exists()


def test_a_writer_killed_at_its_very_start_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / ".lock").touch()
    (tmp_path / "p" / ".profile.json.x.tmp").write_text("{")
    ProfileStore.create(tmp_path / "p", manifest()).close()
    assert ProfileStore.open(tmp_path / "p").manifest == manifest()


def test_nothing_is_overwritten_or_mixed(tmp_path: Path) -> None:
    measurement, requests = sample()
    with ProfileStore.create(tmp_path / "p", manifest()) as store:
        store.append(measurement, requests)
        with pytest.raises(BadInput, match="stored already"):
            store.append(measurement, requests)
        with pytest.raises(BadInput, match="the profile is of cpu:0-1"):
            store.append(*sample(cell(device="cuda:GPU-1")))
        with pytest.raises(ValueError, match="one array of requests a tenant"):
            store.append(sample(cell(repeat=1))[0], [])
    with pytest.raises(ValueError, match="not open for writing"):
        store.append(*sample(cell(repeat=1)))


def test_a_damaged_file_names_itself_and_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    file = ProfileStore.open(path).cell_paths()[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=rf"{file.name}: is damaged.*\n.*delete it and run"):
        ProfileStore.open(path).measurements()


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    file = ProfileStore.open(path).cell_paths()[0]
    file.rename(file.with_name("0123456789abcdef.zip"))
    with pytest.raises(BadInput, match="renamed or edited"):
        ProfileStore.open(path).measurements()


def test_cells_of_another_device_or_under_other_conditions_are_refused(tmp_path: Path) -> None:
    newer = CONDITIONS.model_copy(update={"triton": "2.60"})
    path = write(tmp_path / "a", [sample()])
    with (
        ProfileStore.create(path, manifest()) as store,
        pytest.raises(BadInput, match=r"triton is 2\.51 and 2\.60"),
    ):
        store.append(*sample(cell(repeat=1), conditions=newer))
    assert len(ProfileStore.open(path).measurements()) == 1
    smuggle(path, *sample(cell(repeat=1), conditions=newer))
    with pytest.raises(BadInput, match=r"triton is 2\.51 and 2\.60"):
        ProfileStore.open(path).measurements()
    assert len(ProfileStore.open(path).measurements(strict=False)) == 2

    other = DEVICE.model_copy(update={"id": "cpu:0"})
    foreign = write(tmp_path / "b", [sample(cell(device="cpu:0"))], manifest(device=other))
    file = ProfileStore.open(foreign).cell_paths()[0]
    path = write(tmp_path / "c", [sample()])
    (path / "cells" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="was measured on cpu:0, the profile is of cpu:0-1"):
        ProfileStore.open(path).measurements()


def test_unknown_conditions_agree_with_all(tmp_path: Path) -> None:
    unknown = CONDITIONS.model_copy(update={"triton": None})
    path = write(tmp_path / "p", [sample(), sample(cell(repeat=1), conditions=unknown)])
    assert len(ProfileStore.open(path).measurements()) == 2


def test_what_the_first_cell_did_not_know_is_learnt_from_the_next(tmp_path: Path) -> None:
    unknown, newer = (CONDITIONS.model_copy(update={"triton": it}) for it in (None, "2.60"))
    with ProfileStore.create(tmp_path / "p", manifest()) as store:
        store.append(*sample(conditions=unknown))
        store.append(*sample(cell(repeat=1)))
        with pytest.raises(BadInput, match=r"triton is 2\.51 and 2\.60"):
            store.append(*sample(cell(repeat=2), conditions=newer))


def test_another_set_of_cells_is_refused_where_it_is_known(tmp_path: Path) -> None:
    ProfileStore.create(tmp_path / "old", manifest()).close()
    ProfileStore.create(tmp_path / "old", manifest(cells_hash="1")).close()
    ProfileStore.create(tmp_path / "new", manifest(cells_hash="1")).close()
    ProfileStore.create(tmp_path / "new", manifest(cells_hash="1")).close()
    with pytest.raises(BadInput, match="holds another set of cells"):
        ProfileStore.create(tmp_path / "new", manifest(cells_hash="2"))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    one = write(tmp_path / "a", [sample(), sample(cell(repeat=1))])
    same = write(tmp_path / "b", [sample(cell(repeat=1)), sample()])
    other = write(tmp_path / "c", [sample(), sample(cell(repeat=1), seed=1)])
    assert ProfileStore.open(one).digest() == ProfileStore.open(same).digest()
    assert ProfileStore.open(one).digest() != ProfileStore.open(other).digest()


def test_requests_are_small_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample(count=5000)])
    size = ProfileStore.open(path).cell_paths()[0].stat().st_size
    assert size < 12 * 5000


def test_a_full_disk_stores_nothing_in_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProfileStore.create(tmp_path / "p", manifest()) as store:
        store.append(*sample())

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(MissingCapability, match="no disk space") as caught:
                store.append(*sample(cell(repeat=1)))
        assert caught.value.exit_status == 3
        assert store.done_ids() == {cell().cell_id}
        assert len(list((tmp_path / "p" / "cells").iterdir())) == 1
        store.append(*sample(cell(repeat=1)))
    assert len(store.measurements()) == 2


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from igniter_prof.dataset import ProfileStore
    from tests.dataset_samples import cell, manifest, sample

    sample()  # imports what it needs
    with ProfileStore.create(Path(sys.argv[1]), manifest()) as store:
        print("ready", flush=True)
        for number in range(10_000):
            what = cell(repeat=number)
            if what.cell_id not in store.done_ids():
                store.append(*sample(what, count=300))
                print(what.cell_id, flush=True)
""")


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    acknowledged: list[str] = []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "p")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        # a killed writer's lock is gone, else this one would not get ready
        assert process.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0.005, 0.15))
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=30)[0]
        # a last line without its end was not said
        acknowledged += [line for line in said.splitlines(keepends=True) if line.endswith("\n")]
    ids = [line.strip() for line in acknowledged]
    assert len(ids) > 6
    assert len(set(ids)) == len(ids), "a finished cell was measured twice"
    store = ProfileStore.open(tmp_path / "p")
    found = [one.cell_id for one in store.measurements()]
    assert len(set(found)) == len(found)
    assert set(ids) <= set(found)
    assert all(len(store.requests(cell_id)[0]) == 303 for cell_id in found)
