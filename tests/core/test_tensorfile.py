from __future__ import annotations

import json
import re
import weakref
import zlib

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import (
    TensorFile,
    TensorSpec,
    convert,
    count_not_finite,
    from_float32,
    tag_of,
    to_float32,
    write_arrays,
    write_tensors,
)

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "double": RANDOM.standard_normal((2, 3)),
    "single": RANDOM.standard_normal((4, 1, 5)).astype(np.float32),
    "half": RANDOM.standard_normal(7).astype(np.float16),
    "long": RANDOM.integers(-9, 9, (3, 2)),
    "int": RANDOM.integers(-9, 9, 3).astype(np.int32),
    "short": RANDOM.integers(-9, 9, 3).astype(np.int16),
    "byte": RANDOM.integers(-9, 9, 3).astype(np.int8),
    "unsigned": RANDOM.integers(0, 9, 5).astype(np.uint8),
    "yes": RANDOM.integers(0, 2, 5).astype(bool),
    "empty": np.zeros((0, 4), np.float32),
    "Größe 重": np.arange(3, dtype=np.float32),
}


def write(path, header, body=b"", length=None):
    """A file with any header, however wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + body)
    return path


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    write_arrays(tmp_path / "a.safetensors", ARRAYS, {"format": "np", "note": "重"})
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(str(tmp_path / "a.safetensors"), framework="np") as file:
        assert file.metadata() == {"format": "np", "note": "重"}


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors", {"format": "pt"})
    file = TensorFile(tmp_path / "a.safetensors")
    assert file.metadata == {"format": "pt"}
    assert file.specs.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert file.specs[name] == TensorSpec(name, tag_of(array), array.shape)
        assert file.read(name).dtype == array.dtype
        np.testing.assert_array_equal(file.read(name), array)


def test_bfloat16_passes_both_ways_between_us_and_the_safetensors_library(tmp_path):
    paddle = pytest.importorskip("paddle")
    import safetensors.paddle

    tensor = paddle.randn([5, 3]).astype("bfloat16")
    safetensors.paddle.save_file({"x": tensor}, tmp_path / "theirs.safetensors")
    file = TensorFile(tmp_path / "theirs.safetensors")
    assert file.specs["x"].tag == "BF16"
    np.testing.assert_array_equal(file.read("x"), tensor.numpy())
    write_arrays(tmp_path / "ours.safetensors", {"x": file.read("x")})
    back = safetensors.paddle.load_file(tmp_path / "ours.safetensors")["x"]
    assert back.dtype == paddle.bfloat16
    np.testing.assert_array_equal(back.numpy(), tensor.numpy())


FINITE = np.array([bits for bits in range(2**16) if (bits >> 7) & 0xFF != 0xFF], dtype=np.uint32)
"""Every finite bfloat16, as its bits."""


def as_floats(bits):
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def test_every_bfloat16_survives_float32():
    everything = np.append(FINITE, [0x7F80, 0xFF80]).astype(np.uint16)  # and both infinities
    np.testing.assert_array_equal(from_float32(to_float32(everything, "BF16"), "BF16"), everything)


def test_rounding_to_bfloat16_is_to_nearest_and_ties_go_to_even():
    low = FINITE << 16  # each float32 between two neighbours: just below, on and just above the middle
    np.testing.assert_array_equal(from_float32(as_floats(low | 0x7FFF), "BF16"), FINITE)
    np.testing.assert_array_equal(from_float32(as_floats(low | 0x8001), "BF16"), FINITE + 1)
    np.testing.assert_array_equal(from_float32(as_floats(low | 0x8000), "BF16"), FINITE + (FINITE & 1))


def test_infinity_stays_infinite_and_nan_stays_nan():
    patterns = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001]
    given = as_floats(patterns)
    with np.errstate(invalid="ignore"):
        found = to_float32(from_float32(given, "BF16"), "BF16")
    np.testing.assert_array_equal(found, given)  # NaN equals NaN here


def test_rounding_is_what_paddle_does():
    paddle = pytest.importorskip("paddle")
    values = (RANDOM.standard_normal(4096) * 10.0 ** RANDOM.integers(-44, 38, 4096)).astype(np.float32)
    np.testing.assert_array_equal(from_float32(values, "BF16"), paddle.to_tensor(values).astype("bfloat16").numpy())


def test_rounding_to_float16_goes_to_the_nearest_one():
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)  # the positive ones, in order
    values = RANDOM.uniform(0, 1, 500) * 2.0 ** RANDOM.integers(-26, 15, 500)
    rounded = from_float32(values.astype(np.float32), "F16").astype(np.float64)
    nearest = np.abs(every[:, None] - values.astype(np.float32)).min(axis=0)
    np.testing.assert_array_equal(np.abs(rounded - values.astype(np.float32)), nearest)


def test_converting_to_the_same_type_costs_nothing_and_through_float32_loses_nothing():
    half = RANDOM.standard_normal(9).astype(np.float16)
    assert convert(half, "F16", "F16") is half
    np.testing.assert_array_equal(convert(convert(half, "F16", "F32"), "F32", "F16"), half)


def test_a_file_cut_anywhere_is_refused_and_the_missing_bytes_are_named(tmp_path):
    write_arrays(tmp_path / "whole.safetensors", {"a": np.arange(6, dtype=np.float32), "b": np.arange(3)})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="cut short"):
            TensorFile(cut)
    with pytest.raises(ModelError, match=re.escape(f"promises {len(whole)} bytes, the file has {len(whole) - 1}")):
        TensorFile(cut)


WRONG = {
    "text": b"this is no safetensors file at all",
    "list": [1, 2],
    "not UTF-8": b'{"\xff\xfe": 1}',
    "unknown type": {"a": entry(0, 8, dtype="F12")},
    "shape needs more": {"a": entry(0, 4)},
    "shape needs less": {"a": entry(0, 8, (1,))},
    "backwards": {"a": entry(8, 0)},
    "before the data": {"a": entry(-8, 0)},
    "negative shape": {"a": entry(0, 8, (-1, -2))},
    "overlap": {"a": entry(0, 8), "b": entry(4, 12)},
    "number for an entry": {"a": 3},
    "entry without offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "entry without type": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "text for a shape": {"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}},
    "list for a type": {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
    "text for an offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, "8"]}},
    "half an offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0.5, 8.5]}},
    "half a size": {"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}},
    "metadata that is none": {"__metadata__": 3, "a": entry(0, 8)},
    "a hole": {"a": entry(0, 8), "b": entry(12, 20)},
    "a late start": {"a": entry(4, 12)},
    "checksums that are no text": {"__metadata__": {"crc32": 3}, "a": entry(0, 8)},
    "one offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_header_is_refused_by_file_name(tmp_path, name):
    header = WRONG[name]
    ends = [max(e["data_offsets"]) for e in header.values() if is_entry(e)] if isinstance(header, dict) else [0]
    path = write(tmp_path / "wrong.safetensors", header, bytes(max(ends, default=0)))  # so that the length is right
    with pytest.raises(ModelError, match="wrong.safetensors"):
        TensorFile(path)


def is_entry(value):
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    return bool(offsets) and all(isinstance(offset, int) and offset >= 0 for offset in offsets)


def test_a_name_that_stands_twice_in_the_header_is_refused(tmp_path):
    one = json.dumps(entry(0, 8))
    path = write(tmp_path / "a.safetensors", f'{{"x": {one}, "x": {json.dumps(entry(8, 16))}}}'.encode(), bytes(16))
    with pytest.raises(ModelError, match="its header names x twice"):
        TensorFile(path)


@pytest.mark.parametrize("name", ARRAYS)
def test_blocks_are_the_tensor_in_order(tmp_path, name, monkeypatch):
    monkeypatch.setattr("paddle_sft.core.tensorfile._BLOCK", 20)
    write_arrays(tmp_path / "a.safetensors", ARRAYS, checksums=True)
    pieces = [(first, rows.copy()) for first, rows in TensorFile(tmp_path / "a.safetensors").blocks(name)]
    whole = ARRAYS[name]
    assert len(pieces) == -(-whole.nbytes // 20) or whole.ndim > 1
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in pieces] or [whole]), whole)
    assert [first for first, _ in pieces] == list(np.cumsum([0] + [len(rows) for _, rows in pieces[:-1]]))[
        : len(pieces)
    ]


def test_a_tensor_without_axes_is_one_row(tmp_path):
    write_arrays(tmp_path / "a.safetensors", {"x": np.float32(3.5).reshape(())}, checksums=True)
    file = TensorFile(tmp_path / "a.safetensors")
    assert [(first, rows.tolist()) for first, rows in file.blocks("x")] == [(0, [3.5])] and file.read("x") == 3.5


def test_a_file_with_checksums_is_an_ordinary_file_to_others(tmp_path):
    write_arrays(tmp_path / "a.safetensors", ARRAYS, {"format": "np"}, checksums=True)
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    told = json.loads(TensorFile(tmp_path / "a.safetensors").metadata["crc32"])
    assert told == {name: f"{zlib.crc32(array.tobytes()):08x}" for name, array in ARRAYS.items()}


@pytest.mark.parametrize("name", [name for name, array in ARRAYS.items() if array.size])
def test_every_flipped_byte_of_a_tensor_is_seen_when_it_is_read(tmp_path, name):
    write_arrays(tmp_path / "a.safetensors", {name: ARRAYS[name]}, checksums=True)
    whole = (tmp_path / "a.safetensors").read_bytes()
    for place in range(len(whole) - ARRAYS[name].nbytes, len(whole)):
        (tmp_path / "a.safetensors").write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(ModelError, match=f"tensor {name} was changed"):
            TensorFile(tmp_path / "a.safetensors").read(name)


def test_the_checksums_of_another_file_are_not_carried_over(tmp_path):
    write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3)}, {"format": "np"}, checksums=True)
    write_arrays(tmp_path / "b.safetensors", {"x": np.ones(3)}, TensorFile(tmp_path / "a.safetensors").metadata)
    assert TensorFile(tmp_path / "b.safetensors").metadata == {"format": "np"}


NOT_FINITE = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@pytest.mark.parametrize("tag", NOT_FINITE)
def test_what_is_no_number_is_counted_by_its_bits(tag):
    values = np.array([0.0, -0.0, 1.0, np.nan, -np.nan, np.inf, -np.inf, np.inf, 6e4, -6e4, 1e-7], np.float32)
    assert count_not_finite(from_float32(values, tag), tag) == (2, 3)
    assert count_not_finite(from_float32(values[[0, 1, 2, 8, 9, 10]], tag), tag) == (0, 0)
    assert count_not_finite(np.zeros((0, 3), NOT_FINITE[tag]), tag) == (0, 0)


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path):
    with pytest.raises(ModelError, match="wrong.safetensors"):
        TensorFile(write(tmp_path / "wrong.safetensors", b"{}", length=2**63))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="nothing.safetensors: No such file"):
        TensorFile(tmp_path / "nothing.safetensors")


def test_changing_what_was_read_does_not_change_the_file(tmp_path):
    write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(4, np.float32)})
    TensorFile(tmp_path / "a.safetensors").read("x")[:] = 1.0
    np.testing.assert_array_equal(TensorFile(tmp_path / "a.safetensors").read("x"), np.zeros(4))


def test_the_first_tensor_begins_at_a_multiple_of_eight_bytes(tmp_path):
    for length in range(1, 9):
        write_arrays(tmp_path / "a.safetensors", {"x" * length: np.zeros(1)})
        assert int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_a_transposed_view_is_written_in_its_own_order(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_arrays(tmp_path / "a.safetensors", {"x": matrix.T})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "a.safetensors")["x"], matrix.T)


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    specs = [TensorSpec(f"x{number}", "F32", (1000,)) for number in range(20)]
    alive, most = weakref.WeakSet(), []

    class Tracked(np.ndarray):
        pass

    def produce(spec):
        array = np.zeros(spec.shape, np.float32).view(Tracked)
        alive.add(_Token(array))
        most.append(len(alive))
        return array

    class _Token:
        def __init__(self, array):
            array.token = self

    write_tensors(tmp_path / "a.safetensors", specs, produce)
    assert len(most) == 20 and max(most) <= 2  # the one being made, and the one before it until it is overwritten


def test_a_tensor_other_than_announced_is_refused(tmp_path):
    spec = TensorSpec("x", "F32", (2, 2))
    for wrong in (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float16)):
        with pytest.raises(ModelError, match="x: announced F32"):
            write_tensors(tmp_path / "a.safetensors", [spec], lambda _: wrong)


def test_a_type_that_the_format_does_not_have_is_refused():
    with pytest.raises(ModelError, match="complex128"):
        tag_of(np.zeros(1, complex))
