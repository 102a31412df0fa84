"""Tensors that are fused, split or stacked on one side: written and read back, against slices written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, tag_of, write_arrays
from paddle_sft.models.renames import Piece, RenameTable, fused, rename_table, split, stacked
from paddle_sft.models.weights import WEIGHTS_NAME, ModelWeights
from paddle_sft.models.writer import write_weights

RANDOM = np.random.default_rng(3)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


Q, K, V, BIAS = numbers(6, 4), numbers(6, 2), numbers(6, 2), numbers(8)
EXPERTS = numbers(3, 6, 5)
LEFT, RIGHT = numbers(6, 5), numbers(6, 3)
PADDLE = {
    "q": Q, "k": K, "v": V, "bias": BIAS, "gate_up": numbers(6, 10), "experts": EXPERTS, "norm": numbers(6),
    "left": LEFT, "right": RIGHT,
}  # fmt: skip
PIECES = [
    *fused(["q", "k", "v"], "qkv", [4, 2, 2], axis=1),  # GPT-2: [in, out] on both sides
    *fused(["left", "right"], "both", [5, 3], transposed=True),  # Phi-3: [out, in] there
    *split("gate_up", ["gate", "up"], [7, 3], axis=1, transposed=True),
    *stacked("experts", ["expert.0", "expert.1", "expert.2"], transposed=True),
    Piece("bias", "qkv.bias"),
    Piece("norm", "ln"),
]
HF = {
    "qkv": np.concatenate([Q, K, V], axis=1),
    "both": np.concatenate([LEFT.T, RIGHT.T]),
    "gate": PADDLE["gate_up"][:, :7].T,
    "up": PADDLE["gate_up"][:, 7:].T,
    "expert.0": EXPERTS[0].T,
    "expert.1": EXPERTS[1].T,
    "expert.2": EXPERTS[2].T,
    "qkv.bias": BIAS,
    "ln": PADDLE["norm"],
}


def write(folder, layout, arrays=PADDLE, pieces=tuple(PIECES)):
    specs = [TensorSpec(name, tag_of(array), array.shape) for name, array in arrays.items()]
    write_weights(folder, specs, lambda spec: arrays[spec.name], RenameTable(pieces), layout, "1GB")
    return folder


def read_all(folder, pieces=tuple(PIECES)):
    weights = ModelWeights(folder, RenameTable(pieces))
    assert not weights.unused
    return {name: weights.read(name) for name in weights.names}


def test_the_hugging_face_side_is_what_slices_by_hand_give(tmp_path):
    found = safetensors.numpy.load_file(write(tmp_path, "hf") / WEIGHTS_NAME)
    assert found.keys() == HF.keys()
    for name, array in HF.items():
        np.testing.assert_array_equal(found[name], array, name)


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_both_layouts_come_back_bit_for_bit(tmp_path, layout):
    back = read_all(write(tmp_path, layout))
    assert back.keys() == PADDLE.keys()
    for name, array in PADDLE.items():
        np.testing.assert_array_equal(back[name], array, name)


def test_shapes_are_known_before_anything_is_read(tmp_path, monkeypatch):
    weights = ModelWeights(write(tmp_path, "hf"), RenameTable(PIECES))
    monkeypatch.setattr(TensorFile, "blocks", lambda *given: pytest.fail("read a tensor"))
    assert {name: weights.spec(name).shape for name in weights.names} == {n: a.shape for n, a in PADDLE.items()}


@pytest.mark.parametrize("gone", ["up", "expert.1", "qkv"])
def test_a_weight_of_which_a_part_is_missing_is_not_there(tmp_path, gone):
    arrays = {name: array for name, array in HF.items() if name != gone}
    write_arrays(tmp_path / WEIGHTS_NAME, {name: np.ascontiguousarray(array) for name, array in arrays.items()})
    weights = ModelWeights(tmp_path, RenameTable(PIECES))
    lost = {"up": {"gate_up"}, "expert.1": {"experts"}, "qkv": {"q", "k", "v"}}[gone]
    assert {name for name in PADDLE if name not in weights} == lost
    others = {piece.hf for piece in PIECES if piece.paddle in lost} - {gone}
    assert set(weights.unused) == others  # and what is left of it is not passed over


@pytest.mark.parametrize("stored, number, other", [("qkv", 7, "q"), ("both", 47, "left")])
def test_a_part_of_a_tensor_is_compared_with_the_checksum_of_the_whole(tmp_path, stored, number, other):
    file = write(tmp_path, "hf") / WEIGHTS_NAME
    content = bytearray(file.read_bytes())
    content[TensorFile(file)._start + TensorFile(file)._offsets[stored][0] + 4 * number] ^= 1  # in another part
    file.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=f"tensor {stored} was changed"):
        ModelWeights(tmp_path, RenameTable(PIECES)).read(other)


def test_parts_of_different_types_are_refused(tmp_path):
    arrays = {name: np.ascontiguousarray(array) for name, array in HF.items()}
    arrays["up"] = arrays["up"].astype(np.float16)
    write_arrays(tmp_path / WEIGHTS_NAME, arrays)
    with pytest.raises(ModelError, match="the parts of gate_up are stored as F16 and F32"):
        ModelWeights(tmp_path, RenameTable(PIECES)).spec("gate_up")


def test_a_table_that_asks_for_an_unknown_change_is_refused_by_the_weights_name():
    class Mapping:
        target_name, source_name, action = "llama.x", "model.x", "merge_last_two_dim"

    class Network:
        _get_name_mappings = staticmethod(lambda config: [Mapping])

    with pytest.raises(ModelError, match="Network: llama.x needs merge_last_two_dim"):
        rename_table(Network, None)
