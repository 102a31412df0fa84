from __future__ import annotations

import errno
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.core.records import Sample
from paddle_sft.data import store as store_module
from paddle_sft.data.store import COLUMNS, SampleBlock, SampleStore, StoreWriter


@st.composite
def samples(draw):
    length = draw(st.integers(1, 9))
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length))
    trained = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    return Sample(np.array(ids, np.int32), np.array(trained), draw(st.text(max_size=4)), draw(st.text(max_size=3)))


def content_of(found):
    return [(one.ids.tolist(), one.trained.tolist(), one.place, one.label) for one in found]


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(0, 2), st.lists(samples(), max_size=4)), max_size=5),
    on_disk=st.booleans(),
)
def test_what_goes_in_comes_out_from_memory_and_from_files(tmp_path_factory, parts, on_disk):
    folder = tmp_path_factory.mktemp("store") if on_disk else None
    writer = StoreWriter(folder, ["a", "b", "c"])
    for source, part in parts:
        writer.add(SampleBlock.of(part), source)
    store = writer.finish()
    given_samples = [one for _, part in parts for one in part]
    assert content_of(store) == content_of(given_samples)
    assert store.lengths.tolist() == [len(one) for one in given_samples]
    assert store.num_trained.tolist() == [one.num_trained for one in given_samples]
    assert store.source.tolist() == [source for source, part in parts for _ in part]
    assert store.largest_id == max((int(one.ids.max()) for one in given_samples), default=0)
    assert store.fingerprint() == SampleStore.of(given_samples).fingerprint()
    if on_disk:
        assert content_of(SampleStore.open(folder)) == content_of(given_samples)
        assert SampleStore.open(folder).fingerprint() == store.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        lambda one: Sample(one.ids + 1, one.trained, one.place, one.label),
        lambda one: Sample(one.ids, ~one.trained, one.place, one.label),
        lambda one: Sample(one.ids[:-1], one.trained[:-1], one.place, one.label),
        lambda one: Sample(one.ids, one.trained, one.place, "other"),
    ],
)
def test_the_fingerprint_changes_with_what_training_sees_and_with_nothing_else(change):
    one = Sample(np.arange(4, dtype=np.int32), np.array([False, True, False, True]), "here", "good")
    before = SampleStore.of([one, one]).fingerprint()
    assert SampleStore.of([one, change(one)]).fingerprint() != before
    elsewhere = Sample(one.ids, one.trained, "there", one.label)
    assert SampleStore.of([one, elsewhere], [0, 1], ["a", "b"]).fingerprint() == before


def test_where_one_sample_ends_and_the_next_begins_counts_too():
    ids, trained = np.arange(4, dtype=np.int32), np.ones(4, bool)
    cut = [SampleStore.of([Sample(ids[:at], trained[:at]), Sample(ids[at:], trained[at:])]) for at in (1, 2)]
    assert cut[0].fingerprint() != cut[1].fingerprint()


def test_samples_can_not_be_changed_and_indices_are_checked():
    store = SampleStore.of([Sample(np.arange(3, dtype=np.int32), np.ones(3, bool))])
    assert store[-1].ids.tolist() == store[np.int64(0)].ids.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        store[0].ids[0] = 7
    for index in (1, -2):
        with pytest.raises(IndexError):
            store[index]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_is_cut_short_is_no_store(tmp_path, column):
    writer = StoreWriter(tmp_path)
    writer.add(SampleBlock.of([Sample(np.arange(3, dtype=np.int32), np.ones(3, bool), "here", "good")]))
    writer.finish()
    (tmp_path / column).write_bytes((tmp_path / column).read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{column} has"):
        SampleStore.open(tmp_path)


@pytest.mark.parametrize("num_writes", range(0, 27, 4))
def test_on_a_full_disk_the_writer_goes_on_in_memory_with_all_samples(tmp_path, monkeypatch, caplog, num_writes):
    """The disk fills up in the middle of any column, and takes half of what it is given then."""
    parts = [[Sample(np.arange(n, n + 5, dtype=np.int32), np.ones(5, bool), f"line {n}")] for n in range(3)]
    whole = SampleStore.of([one for part in parts for one in part])
    written = []
    write_all = store_module._write_all

    def until_full(file, content):
        written.append(1)
        if len(written) > num_writes and not isinstance(file, io.BytesIO):
            file.write(bytes(content)[: content.nbytes // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(file, content)

    monkeypatch.setattr(store_module, "_write_all", until_full)
    monkeypatch.setattr(store_module.get_logger(), "propagate", True)
    writer = StoreWriter(tmp_path)
    for part in parts:
        writer.add(SampleBlock.of(part))
    store = writer.finish()
    assert content_of(store) == content_of(whole) and store.fingerprint() == whole.fingerprint()
    assert writer.folder is None and not list(tmp_path.iterdir())
    assert "No space left on device): the run goes on" in caplog.text
