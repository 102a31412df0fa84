from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import load_model
from paddle_sft.models.weights import INDEX_NAME, WEIGHTS_NAME, WeightFolder
from paddle_sft.models.writer import parse_size, renames_of, write_model
from tests import tiny


@pytest.fixture
def copy(model_folder, tmp_path):
    """A copy of a tiny model folder, to be damaged."""

    def make(*args, **changes):
        return shutil.copytree(model_folder(*args, **changes), tmp_path / f"copy{len(list(tmp_path.iterdir()))}")

    return make


@pytest.fixture
def sharded(tmp_path, model_folder):
    """A model in shards of 20 KB, in either layout, and the model itself."""

    def make(layout="paddle", family="llama"):
        folder = tmp_path / f"sharded-{layout}-{family}"
        shutil.copytree(model_folder(family), folder)
        (folder / WEIGHTS_NAME).unlink()
        model = tiny.load(model_folder(family))
        write_model(folder, model, layout, "20KB")
        return folder, model

    return make


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_shards_hold_every_tensor_once_and_the_index_names_them(sharded, layout):
    folder, model = sharded(layout)
    index = json.loads((folder / INDEX_NAME).read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    count = len(files)
    assert count > 2 and files == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for name in files:
        arrays = safetensors.numpy.load_file(folder / name)
        assert sum(array.nbytes for array in arrays.values()) <= 20_000
        assert sorted(arrays) == sorted(key for key, file in index["weight_map"].items() if file == name)
    expected = sum(parameter.numpy().nbytes for parameter in model.parameters())
    assert index["metadata"]["total_size"] == expected


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_shards_read_back_bit_for_bit(sharded, layout):
    folder, model = sharded(layout)
    loaded = load_model(folder, "float32")
    assert loaded.is_hugging_face == (layout == "hf")
    for name, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(loaded.model.state_dict()[name].numpy(), array, name)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "bloom"])
def test_paddlenlp_itself_reads_our_shards_with_the_same_logits(sharded, family, some_ids):
    import paddle
    from paddlenlp.transformers import AutoModelForCausalLM

    folder, model = sharded("paddle", family)
    theirs = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32")
    theirs.eval()
    with paddle.no_grad():
        output = theirs(paddle.to_tensor(some_ids))
    found = (output[0] if isinstance(output, (tuple, list)) else output).numpy()
    np.testing.assert_allclose(found, tiny.logits(model, some_ids), rtol=0, atol=1e-5)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path, model_folder):
    write_model(tmp_path, tiny.load(model_folder()), "paddle", "1")
    assert all(len(TensorFile(path).specs) == 1 for path in tmp_path.glob("*.safetensors"))


def test_one_shard_needs_no_index(tmp_path, model_folder):
    write_model(tmp_path, tiny.load(model_folder()), "hf")
    assert [path.name for path in tmp_path.iterdir() if "safetensors" in path.name] == [WEIGHTS_NAME]
    assert TensorFile(tmp_path / WEIGHTS_NAME).metadata["format"] == "pt"  # transformers asks for it


def test_a_missing_shard_is_named(sharded):
    folder, _ = sharded()
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=f"1 of .* shards are missing: {gone.name}"):
        load_model(folder, "float32")


def test_a_shard_cut_short_is_named_with_the_bytes_it_lacks(sharded):
    folder, _ = sharded()
    hurt = sorted(folder.glob("*.safetensors"))[1]
    hurt.write_bytes(hurt.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{hurt.name} is cut short"):
        load_model(folder, "float32")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(sharded, text):
    folder, _ = sharded()
    (folder / INDEX_NAME).write_text(text)
    with pytest.raises(ModelError, match="not a readable weight index"):
        load_model(folder, "float32")


def test_a_pickle_of_torch_is_refused_and_the_way_out_is_said(copy):
    folder = copy()
    (folder / WEIGHTS_NAME).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin, a pickle that may run code.*save_pretrained"):
        load_model(folder, "float32")


def test_a_folder_without_weights_says_what_was_expected(copy):
    folder = copy()
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(ModelError, match="no weights: expected model.safetensors"):
        load_model(folder, "float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rename_table_knows_every_parameter_and_no_hugging_face_name_twice(model_folder, family):
    model = tiny.load(model_folder(family))
    renames = renames_of(model)
    from paddle_sft.models.hub import unique_parameters

    assert set(unique_parameters(model)) <= set(renames.of_paddle)
    regions = [(piece.hf, repr(piece.hf_at)) for pieces in renames.of_hf.values() for piece in pieces]
    assert len(set(regions)) == len(regions)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_told_by_the_names_not_by_the_tag(copy, family):
    for layout in ("paddle", "hf"):
        folder = copy(family, layout)
        before = tiny.snapshot(load_model(folder, "float32").model)
        arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
        write_arrays(folder / WEIGHTS_NAME, arrays, {"format": "np" if layout == "hf" else "pt"})
        loaded = load_model(folder, "float32")
        assert loaded.is_hugging_face == (layout == "hf")
        for name, array in before.items():
            np.testing.assert_array_equal(loaded.model.state_dict()[name].numpy(), array)


def test_an_old_bloom_folder_without_the_prefix_of_its_model_is_read(copy):
    folder = copy("bloom", "hf")
    before = tiny.snapshot(load_model(folder, "float32").model)
    arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    assert all(name.startswith("transformer.") for name in arrays)
    write_arrays(
        folder / WEIGHTS_NAME, {name[len("transformer.") :]: array for name, array in arrays.items()}, {"format": "pt"}
    )
    after = tiny.snapshot(load_model(folder, "float32").model)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_buffers_that_old_checkpoints_store_are_no_surplus(copy):
    folder = copy("llama", "hf")
    arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    write_arrays(folder / WEIGHTS_NAME, arrays)
    load_model(folder, "float32")


def test_reading_a_weight_copies_nothing_from_the_disk_before_it_is_used(model_folder):
    folder = WeightFolder(model_folder())
    assert all(isinstance(folder.read(name), np.memmap) for name in folder.names)


@pytest.mark.parametrize(
    "text, size", [("5GB", 5 * 10**9), ("20 kb", 20_000), ("1.5MB", 1_500_000), ("2TB", 2 * 10**12), (7, 7), ("0", 1)]
)
def test_a_size_is_read_as_it_is_written(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "five", "5XB", "-1GB", "5 G", "1,5GB", None])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(Exception, match="max_shard_size is .*such as 5GB"):
        parse_size(text)
