from __future__ import annotations

import errno
import json
import os
import resource
import signal

import pytest

from paddle_sft.core.atomic import (
    MANIFEST,
    atomic_folder,
    damage,
    disk_errors,
    move_into,
    require_writable,
    write_json,
)
from paddle_sft.core.errors import CheckpointError


def fill(folder, word="new"):
    (folder / "weights").write_text(word * 100)
    (folder / "inner").mkdir()
    (folder / "inner" / "config").write_text(word)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def old(tmp_path):
    """A folder that is whole, and what is in it."""
    with atomic_folder(tmp_path / "run" / "result") as beside:
        fill(beside, "old")
    return tmp_path / "run" / "result", contents(tmp_path / "run" / "result")


@pytest.fixture
def small_disk():
    """No file may grow beyond 64 KB: the kernel refuses the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_finished_folder_takes_its_name_and_is_whole(old):
    folder, _ = old
    assert sorted(json.loads((folder / MANIFEST).read_text())) == ["inner/config", "weights"]
    assert damage(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


def test_a_new_folder_replaces_the_old_one_whole(old):
    folder, _ = old
    with atomic_folder(folder) as beside:
        (beside / "only").write_text("this")
        assert (folder / "weights").is_file()  # the old one is there until the new one is finished
    assert sorted(contents(folder)) == [MANIFEST, "only"]
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_folder_and_nothing_else(old, error):
    folder, before = old
    with pytest.raises(error):
        with atomic_folder(folder) as beside:
            fill(beside)
            raise error
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


def test_a_disk_that_fills_up_leaves_the_old_folder_and_nothing_else(old, small_disk):
    folder, before = old
    with pytest.raises(OSError):
        with atomic_folder(folder) as beside:
            (beside / "weights").write_bytes(bytes(100_000))
    assert contents(folder) == before and damage(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


def test_data_that_does_not_reach_the_disk_is_no_success(old, monkeypatch):
    folder, before = old

    def refuse(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        with atomic_folder(folder) as beside:
            fill(beside)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


def test_every_file_is_on_the_disk_before_the_folder_takes_its_name(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (events.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda *names: (events.append("rename"), rename(*names)))
    with atomic_folder(tmp_path / "result") as beside:
        fill(beside)
    moved = events.index("rename")
    before, after = ({os.path.basename(name) for name in part} for part in (events[:moved], events[moved:]))
    assert {"weights", "config", ".unfinished-result"} < before  # the folder's own list of names, too
    assert tmp_path.name in after  # and the new name


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    """The old folder has its side name then; the next attempt gives it its own back before it begins."""
    target = tmp_path / "result"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
    target.rename(tmp_path / ".unfinished-old-result")
    with pytest.raises(RuntimeError):
        with atomic_folder(target):
            raise RuntimeError("killed again")
    assert (target / "a").read_text() == "old" and damage(target) == []


def test_the_old_folder_comes_back_when_the_new_one_can_not_take_its_place(old, monkeypatch):
    folder, before = old
    rename = os.rename

    def refuse(source, target):
        if os.path.basename(str(source)) == ".unfinished-result":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError):
        with atomic_folder(folder) as beside:
            fill(beside)
    assert contents(folder) == before


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / ".unfinished-result").mkdir()
    (tmp_path / ".unfinished-result" / "junk").write_text("junk")
    with atomic_folder(tmp_path / "result") as beside:
        fill(beside)
    assert "junk" not in contents(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def remove(path):
    path.unlink()


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "hurt, words", [(remove, "is missing"), (shorten, "299 bytes, 300 were written"), (flip_one_bit, "checksum")]
)
def test_damage_is_named_with_its_file(old, hurt, words):
    folder, _ = old
    hurt(folder / "weights")
    (problem,) = damage(folder)
    assert "weights" in problem and words in problem


def test_a_folder_without_a_manifest_was_never_finished(old):
    folder, _ = old
    (folder / MANIFEST).unlink()
    assert "never finished" in damage(folder)[0]
    (folder / MANIFEST).write_text('{"half')
    assert "not readable" in damage(folder)[0]


def test_every_damaged_file_is_listed(old):
    folder, _ = old
    remove(folder / "weights")
    remove(folder / "inner" / "config")
    assert len(damage(folder)) == 2


def test_json_that_can_not_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": "重"})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"x": "重"} and "重" in text


def test_results_are_moved_up_beside_what_is_there(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "weights").write_text("old")
    with move_into(tmp_path) as beside:
        (beside / "weights").write_text("new")
        (beside / "config").write_text("new")
        assert (tmp_path / "weights").read_text() == "old"
    assert contents(tmp_path) == {"weights": b"new", "config": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "config", "weights"]


def test_results_that_fail_leave_what_is_there(tmp_path):
    (tmp_path / "weights").write_text("old")
    with pytest.raises(ValueError):
        with move_into(tmp_path) as beside:
            (beside / "weights").write_text("new")
            raise ValueError
    assert contents(tmp_path) == {"weights": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_folder_that_can_not_be_written_is_found_at_once(tmp_path):
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="can't write into .*file.*choose another output folder"):
        require_writable(tmp_path / "file" / "folder")


def test_a_full_disk_is_said_in_a_users_words(tmp_path, small_disk):
    with pytest.raises(CheckpointError, match="can't write .*File too large; free space"):
        with disk_errors(tmp_path):
            (tmp_path / "weights").write_bytes(bytes(100_000))


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    for error in (ValueError("x"), OSError(errno.ECONNREFUSED, "Connection refused")):
        with pytest.raises(type(error)):
            with disk_errors(tmp_path):
                raise error


def test_the_file_that_did_not_fit_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        with disk_errors(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")
    assert isinstance(caught.value.__cause__, OSError) and "(weights)" in str(caught.value)
