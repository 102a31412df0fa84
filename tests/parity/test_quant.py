"""nf4 and fp4 against bitsandbytes on the CPU: the same codes, the same scales, the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_sft.quant.codec import dequantise, quantise, quantise_dynamic
from paddle_sft.quant.scheme import Scheme
from tests.parity.asking import Reference

BLOCKS = (32, 64, 4096)
OFFSET_TOLERANCE = 2e-7
"""Of the mean of the scales, relative: ours is a float64 sum, torch's a float32 sum in an order of its own."""


def weights() -> Dict[str, np.ndarray]:
    """Matrices [out, in]: blocks that fill the rows, run over them, and end in the middle; long tails, zeros, ties."""
    random = np.random.default_rng(7)
    found = {
        "normal": random.standard_normal((256, 320)) * 0.02,
        "long tails": random.standard_t(2, (128, 192)),
        "odd rows": random.standard_normal((75, 33)),
        "one block and a bit": random.standard_normal((5, 13)),
        "ties": np.round(random.standard_normal((64, 64)) * 4) / 4,
        "of every size": random.standard_normal((96, 100)) * 10.0 ** random.integers(-30, 30, (96, 1)),
    }
    found["with zeros"] = found["normal"] * (random.random((256, 320)) < 0.5)
    found["with zeros"][:40] = 0.0
    found = {name: array.astype(np.float32) for name, array in found.items()}
    found["of bfloat16"] = (found["normal"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    return found


@pytest.fixture(scope="module")
def theirs(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Dict[str, np.ndarray]:
    folder: Path = tmp_path_factory.mktemp("bitsandbytes")
    save_file({name: np.ascontiguousarray(array) for name, array in weights().items()}, folder / "weights.safetensors")
    output = folder / "codes.safetensors"
    reference.ask("quantise_weights", source=folder / "weights.safetensors", output=output, blocks=list(BLOCKS))
    return load_file(output)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("algorithm", ["nf4", "fp4"])
def test_codes_scales_and_weights_are_those_of_bitsandbytes(theirs, algorithm, block):
    for name, array in weights().items():
        scheme = Scheme(algorithm, block)
        ours = quantise(paddle.to_tensor(array), scheme)
        begin = f"{name}/{algorithm}/{block}/"
        np.testing.assert_array_equal(ours["codes"].numpy(), theirs[begin + "codes"], begin)
        np.testing.assert_array_equal(ours["scales"].numpy(), theirs[begin + "scales"], begin)
        rows, columns = array.shape
        again = dequantise(ours, scheme, columns, rows).numpy()
        np.testing.assert_array_equal(again, theirs[begin + "weight"].reshape(array.shape), begin)


@pytest.mark.parametrize("algorithm", ["nf4", "fp4"])
def test_scales_of_scales_are_those_of_bitsandbytes(theirs, algorithm, measured):
    worst = 0.0
    for name, array in weights().items():
        scheme = Scheme(algorithm, 64, double_quant=True)
        ours = quantise(paddle.to_tensor(array), scheme)
        begin = f"{name}/{algorithm}/64/"
        offset, given = theirs[begin + "scale_offset"], theirs[begin + "scales"]
        np.testing.assert_allclose(ours["scale_offset"].numpy(), offset, rtol=OFFSET_TOLERANCE, err_msg=name)
        codes, scales = quantise_dynamic(paddle.to_tensor(given - offset), 256)  # from their mean: the same bits
        np.testing.assert_array_equal(codes.numpy(), theirs[begin + "scale_codes"], begin)
        np.testing.assert_array_equal(scales.numpy(), theirs[begin + "scale_scales"], begin)
        parts = {"codes": ours["codes"], "scale_codes": codes, "scale_scales": scales}
        rows, columns = array.shape
        same = dequantise({**parts, "scale_offset": paddle.to_tensor(offset)}, scheme, columns, rows).numpy()
        np.testing.assert_array_equal(same, theirs[begin + "double_weight"].reshape(array.shape), begin)
        worst = max(worst, float(np.mean(ours["scale_codes"].numpy() != codes.numpy())))
    measured(f"{algorithm}: share of codes of scales that the other mean moves by one", worst, 0.01)
    assert worst <= 0.01
