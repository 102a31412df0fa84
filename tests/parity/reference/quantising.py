"""bitsandbytes on the CPU."""

from __future__ import annotations

from typing import List

from bitsandbytes import functional
from safetensors.torch import load_file, save_file


def quantise_weights(source: str, output: str, blocks: List[int]) -> None:
    """Quantise every weight [out, in] of a file with both types and every block size, with and without double
    quantisation, and write codes, scales and what they are dequantised to."""
    found = {}
    for name, weight in load_file(source).items():
        for kind in ("nf4", "fp4"):
            for block in blocks:
                codes, state = functional.quantize_4bit(weight, blocksize=block, quant_type=kind)
                begin = f"{name}/{kind}/{block}/"
                found[begin + "codes"] = codes.reshape(-1).clone()
                found[begin + "scales"] = state.absmax.clone()
                found[begin + "weight"] = functional.dequantize_4bit(codes, state).float().contiguous().clone()
                codes, state = functional.quantize_4bit(
                    weight, blocksize=block, quant_type=kind, compress_statistics=True
                )
                found[begin + "scale_codes"] = state.absmax.clone()
                found[begin + "scale_scales"] = state.state2.absmax.clone()
                found[begin + "scale_offset"] = state.offset.reshape(1).clone()
                found[begin + "double_weight"] = functional.dequantize_4bit(codes, state).float().contiguous().clone()
    save_file(found, output)
