"""A damaged model folder is refused, and the message says what is damaged. Each test does one thing to a sound one."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc

import numpy as np
import paddle
import pytest
import safetensors.numpy

from paddle_sft.core.atomic import atomic_folder
from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, from_float32, write_arrays
from paddle_sft.models.hub import build_from_scratch, load_model, unique_parameters
from paddle_sft.models.weights import CHECKSUMS, INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME, WeightFolder
from paddle_sft.models.writer import write_model
from tests import tiny

UP = "llama.layers.1.mlp.up_proj.weight"
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 12345\n"


@pytest.fixture
def whole(model_folder, tmp_path):
    """A copy of a tiny model folder in one file."""
    return shutil.copytree(model_folder(), tmp_path / "whole")


@pytest.fixture
def sharded(model_folder, tmp_path):
    """The same model in shards of 20 KB."""
    folder = shutil.copytree(model_folder(), tmp_path / "sharded")
    (folder / WEIGHTS_NAME).unlink()
    write_model(folder, tiny.load(model_folder()), "paddle", "20KB")
    return folder


def refused(folder, words, dtype="float32"):
    """The message of a load that must fail; `words` is a pattern that it has to match."""
    with pytest.raises(ModelError) as caught:
        load_model(folder, dtype)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value
    return str(caught.value)


def flip_a_bit(path, name):
    """One bit of the last number of a tensor, without a trace in size or header."""
    file = TensorFile(path)
    end = file._start + file._offsets[name][1]
    content = bytearray(path.read_bytes())
    content[end - 4] ^= 1
    path.write_bytes(bytes(content))


def edit_index(folder, change):
    content = json.loads((folder / INDEX_NAME).read_text())
    change(content)
    (folder / INDEX_NAME).write_text(json.dumps(content))


def rewrite(path, change, checksums=True):
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    write_arrays(path, arrays, {"format": "np"}, checksums=checksums)


def shard_of(folder, name):
    return folder / json.loads((folder / INDEX_NAME).read_text())["weight_map"][name]


# ---- bytes --------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_one_file_is_named_with_its_tensor(whole):
    flip_a_bit(whole / WEIGHTS_NAME, UP)
    refused(whole, f"{WEIGHTS_NAME}: tensor {UP} was changed after it was written")


def test_a_flipped_bit_in_a_shard_is_named_with_shard_and_tensor(sharded):
    shard = shard_of(sharded, UP)
    flip_a_bit(shard, UP)
    refused(sharded, f"{shard.name}: tensor {UP} was changed after it was written")


def test_the_index_alone_is_enough_to_see_it(sharded):
    """Shards rewritten by another program lose their own checksums."""
    shard = shard_of(sharded, UP)
    rewrite(shard, lambda arrays: arrays[UP].__setitem__((3, 3), 9.0), checksums=False)
    assert not TensorFile(shard).checksums
    refused(sharded, f"tensor {UP} was changed")


def test_a_shard_of_another_model_is_seen_without_reading_it(sharded, tmp_path):
    """Same names, same shapes, its own checksums in order: only the index can tell."""
    shard = shard_of(sharded, UP)
    rewrite(shard, lambda arrays: arrays[UP].__imul__(2))
    with pytest.raises(ModelError, match=f"{shard.name} has by its checksum another version of {UP}"):
        WeightFolder(sharded)


def test_checksums_are_those_of_zlib_over_the_tensors_bytes(sharded):
    import zlib

    told = json.loads((sharded / INDEX_NAME).read_text())["metadata"][CHECKSUMS]
    found = {}
    for path in sharded.glob("*.safetensors"):
        arrays = safetensors.numpy.load_file(path)
        found.update({name: f"{zlib.crc32(array.tobytes()):08x}" for name, array in arrays.items()})
    assert told == found and WeightFolder(sharded).has_checksums


def test_folders_of_other_writers_have_no_checksums_and_load(whole, sharded):
    rewrite(whole / WEIGHTS_NAME, lambda arrays: None, checksums=False)
    load_model(whole, "float32")
    edit_index(sharded, lambda index: index["metadata"].pop(CHECKSUMS))
    for path in sharded.glob("*.safetensors"):
        rewrite(path, lambda arrays: None, checksums=False)
    load_model(sharded, "float32")
    edit_index(sharded, lambda index: index.pop("metadata"))
    load_model(sharded, "float32")
    assert not WeightFolder(sharded).has_checksums and not WeightFolder(whole).has_checksums


def test_a_file_with_bytes_too_many_is_refused(whole):
    """What a download that was resumed wrongly leaves behind."""
    with open(whole / WEIGHTS_NAME, "ab") as file:
        file.write(bytes(10))
    refused(whole, f"{WEIGHTS_NAME} is too long: its header promises")


def test_an_empty_file_is_called_empty(sharded):
    shard = shard_of(sharded, UP)
    shard.write_bytes(b"")
    refused(sharded, f"{shard.name} is empty")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_git_lfs_pointer_is_called_one_and_the_command_is_said(whole, pickled):
    if pickled:
        (whole / WEIGHTS_NAME).rename(whole / PDPARAMS_NAME)
    (whole / (PDPARAMS_NAME if pickled else WEIGHTS_NAME)).write_text(LFS)
    refused(whole, "is a git-lfs pointer.*run git lfs pull")


def test_a_file_that_shrinks_while_it_is_read_is_named(whole):
    weights = WeightFolder(whole)
    os.truncate(whole / WEIGHTS_NAME, (whole / WEIGHTS_NAME).stat().st_size - 2000)
    with pytest.raises(ModelError, match=f"{WEIGHTS_NAME} became shorter while it was read"):
        for name in weights.names:
            list(weights.rows(name, ()))


def test_a_changed_pickle_is_seen_where_a_manifest_lists_it(tmp_path, model_folder):
    folder = tmp_path / "model"
    with atomic_folder(folder) as beside:
        for path in model_folder().iterdir():
            if path.name != WEIGHTS_NAME:
                shutil.copy(path, beside)
        paddle.save(tiny.load(model_folder()).state_dict(), str(beside / PDPARAMS_NAME))
    load_model(folder, "float32")
    content = bytearray((folder / PDPARAMS_NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / PDPARAMS_NAME).write_bytes(bytes(content))
    refused(folder, f"{PDPARAMS_NAME} was changed after it was written")


# ---- index and shards ---------------------------------------------------------------------------------------------


def test_a_tensor_that_the_index_promises_and_the_shard_lacks_is_named(sharded):
    shard = shard_of(sharded, UP)
    rewrite(shard, lambda arrays: arrays.pop(UP))
    refused(sharded, f"don't belong together.*{shard.name} lacks {UP}")


def test_a_tensor_that_the_index_does_not_know_is_named(sharded):
    shard = shard_of(sharded, UP)
    edit_index(sharded, lambda index: index["weight_map"].pop(UP))
    refused(sharded, f"{shard.name} holds, unknown to the index, {UP}")


def test_a_tensor_that_is_in_two_shards_is_named(sharded):
    other = next(path for path in sorted(sharded.glob("*.safetensors")) if path != shard_of(sharded, UP))
    rewrite(other, lambda arrays: arrays.__setitem__(UP, np.zeros((32, 48), np.float32)))
    refused(sharded, f"{other.name} holds once more {UP}")


def test_two_sets_of_weights_in_one_folder_are_refused(whole, sharded):
    shutil.copy(whole / WEIGHTS_NAME, sharded)
    refused(sharded, f"holds weights twice, as {WEIGHTS_NAME} and as the")


def test_an_index_over_a_single_file_is_fine(whole):
    names = TensorFile(whole / WEIGHTS_NAME).specs
    (whole / INDEX_NAME).write_text(json.dumps({"weight_map": {name: WEIGHTS_NAME for name in names}}))
    load_model(whole, "float32")


@pytest.mark.parametrize("place", ["../outside.safetensors", "/outside.safetensors", "deep/er.safetensors"])
def test_an_index_can_not_name_files_elsewhere(sharded, place):
    edit_index(sharded, lambda index: index["weight_map"].__setitem__(UP, place))
    refused(sharded, "which is no file of its own folder")


def test_shards_without_their_index_are_named(sharded):
    (sharded / INDEX_NAME).unlink()
    refused(sharded, f"holds model-00001-of-.*but no {INDEX_NAME}")


# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["F32", "BF16", "F16"])
def test_numbers_that_are_none_are_counted_by_weight(whole, tag):
    def poison(arrays):
        arrays[UP][2, 3:6] = np.nan
        arrays[UP][4, 7] = -np.inf
        arrays["llama.norm.weight"][0] = np.inf
        for name, array in arrays.items():
            arrays[name] = from_float32(array, tag)

    rewrite(whole / WEIGHTS_NAME, poison)
    said = refused(whole, "2 of 21 weights hold what no weight can be")
    assert f"{UP}: 3 NaN, 1 infinite of 1,536 numbers" in said
    assert "llama.norm.weight: 1 infinite of 32 numbers" in said


def test_a_merge_names_the_weight_of_its_base_that_holds_none():
    from paddle_sft.export.merge import merged_tensor

    class Base:
        read = staticmethod(lambda name: (np.array([1.0, np.nan, np.inf, np.inf], np.float32), "F32"))

    with pytest.raises(ModelError, match=f"{UP} holds 1 NaN and 2 infinite of 4 numbers"):
        merged_tensor(Base(), None, TensorSpec(UP, "F32", (4,)))


def test_numbers_that_float16_can_not_hold_are_not_made_infinite(whole):
    rewrite(whole / WEIGHTS_NAME, lambda arrays: arrays[UP].__setitem__((1, 1), 70000.0))
    load_model(whole, "bfloat16")
    refused(whole, f"{UP}: 1 too large for float16, which ends at 65,504 of 1,536", "float16")


# ---- memory -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with two matrices of 8 MiB, in bfloat16, in shards, in both layouts."""
    made = {}
    model = build_from_scratch(tiny.config("llama", vocab_size=16384, hidden_size=128), "bfloat16", 0)
    for layout in ("paddle", "hf"):
        made[layout] = tmp_path_factory.mktemp(f"wide-{layout}")
        write_model(made[layout], model, layout, "5MB")
    return made


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_holds_the_weights_and_a_few_blocks_besides(wide, layout, dtype):
    tracemalloc.start()
    try:
        model = load_model(wide[layout], dtype).model
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weights = sum(p.size * p.element_size() for p in unique_parameters(model).values())
    assert weights < peak < weights + (6 << 20)  # blocks of 1 MiB: as read, as widened, as bits; and the objects


def test_no_block_is_larger_than_it_has_to_be(wide):
    folder = WeightFolder(wide["hf"])
    for name in folder.names:
        sizes = [rows.nbytes for _, rows in folder.rows(name, ())]
        assert max(sizes) <= 1 << 20
        assert sum(sizes) == folder.spec(name).num_bytes


def test_a_pickles_tensors_are_let_go_one_by_one(whole, model_folder, monkeypatch):
    (whole / WEIGHTS_NAME).unlink()
    paddle.save(tiny.load(model_folder()).state_dict(), str(whole / PDPARAMS_NAME))
    held = []
    own = WeightFolder.release

    def release(self, name):
        own(self, name)
        held.append(len(self._arrays))

    monkeypatch.setattr(WeightFolder, "release", release)
    load_model(whole, "float32")
    assert held == sorted(held, reverse=True) and held[-1] == 0
