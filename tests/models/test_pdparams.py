from __future__ import annotations

import builtins
import os
import pickle
import shutil

import numpy as np
import paddle
import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models.hub import load_model
from paddle_sft.models.pdparams import read_pdparams
from paddle_sft.models.weights import PDPARAMS_NAME, WEIGHTS_NAME
from tests import tiny


class Calls:
    """Pickled, it asks the reader to call `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom"])
def test_weights_that_paddle_pickled_are_read_bit_for_bit(model_folder, tmp_path, family):
    folder = shutil.copytree(model_folder(family), tmp_path / "model")
    (folder / WEIGHTS_NAME).unlink()
    model = tiny.load(model_folder(family))
    paddle.save(model.state_dict(), str(folder / PDPARAMS_NAME))
    loaded = load_model(folder, "float32")
    assert not loaded.is_hugging_face
    for name, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(loaded.model.state_dict()[name].numpy(), array)


def test_pickled_bfloat16_is_read_as_its_bits(tmp_path):
    tensor = paddle.randn([3, 4]).astype("bfloat16")
    paddle.save({"x": tensor}, str(tmp_path / "x.pdparams"))
    np.testing.assert_array_equal(read_pdparams(tmp_path / "x.pdparams")["x"], tensor.numpy())


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Calls(os.system, f"touch '{mark}'"),
        lambda mark: Calls(builtins.eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Calls(open, str(mark), "w"),
        lambda mark: {"weight": np.array([Calls(os.system, f"touch '{mark}'")], dtype=object)},
    ],
)
def test_a_malicious_pickle_does_not_run(tmp_path, attack, protocol):
    mark = tmp_path / "it ran"
    content = pickle.dumps(attack(mark), protocol=protocol)
    (tmp_path / "x.pdparams").write_bytes(content)
    with pytest.raises(ModelError, match="can't be read as plain arrays: it asks for .*save it as safetensors"):
        read_pdparams(tmp_path / "x.pdparams")
    assert not mark.exists()
    try:
        pickle.loads(content)
    except AttributeError:
        pass
    assert mark.exists()  # so the attack itself is real


def test_a_pickle_cut_or_spoilt_anywhere_is_refused_or_read_but_never_crashes(tmp_path):
    whole = pickle.dumps({"x": np.arange(6, dtype=np.float32), "y": np.ones((2, 2), np.float16)}, protocol=2)
    path = tmp_path / "x.pdparams"
    random = np.random.default_rng(0)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="x.pdparams"):
            read_pdparams(path)
    for _ in range(500):
        spoilt = bytearray(whole)
        spoilt[int(random.integers(len(whole)))] = int(random.integers(256))
        path.write_bytes(bytes(spoilt))
        try:
            read_pdparams(path)
        except ModelError:
            pass


@pytest.mark.parametrize(
    "content, words", [([1, 2], "it holds a list"), ({"a": 3}, "a is not an array"), ({"a": {}}, "a is not")]
)
def test_anything_but_named_arrays_is_refused(tmp_path, content, words):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=words):
        read_pdparams(tmp_path / "x.pdparams")


@pytest.mark.parametrize("dtype, words", [("float64", "F64"), ("int64", "I64"), ("object", "object")])
def test_weights_of_a_type_that_no_model_has_are_refused(model_folder, tmp_path, dtype, words):
    folder = shutil.copytree(model_folder(), tmp_path / "model")
    (folder / WEIGHTS_NAME).unlink()
    arrays = {name: array.astype(dtype) for name, array in tiny.snapshot(tiny.load(model_folder())).items()}
    (folder / PDPARAMS_NAME).write_bytes(pickle.dumps(arrays))
    with pytest.raises(ModelError, match=words):
        load_model(folder, "float32")
