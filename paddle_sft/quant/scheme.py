"""How the weights of one linear layer are stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.quant.levels import LEVELS

DEFAULT_BLOCK = {"nf4": 64, "fp4": 64, "weight_only_int4": 0, "weight_only_int8": 0}
"""Weights that share a scale where the user says nothing; 0 is a whole output channel."""


@dataclass(frozen=True)
class Scheme:
    """An algorithm and the sizes of its blocks.

    Blocks follow one another through the weight as torch lays it out, [out, in], row after row: they run along the
    inputs of an output channel. If a channel is no multiple of the block, a block goes on into the next channel, as in
    bitsandbytes; the last block of a weight may be shorter.
    """

    algorithm: str
    block_size: int = 0
    """Weights that share one scale; 0: those of one output channel."""
    double_quant: bool = False
    """Whether scales are stored in 8 bits, with a scale of their own."""
    double_quant_block_size: int = 256
    """Scales that share one scale."""

    def __post_init__(self) -> None:
        choose("weight_quantize_algo", self.algorithm, LEVELS)
        for name, least in (("block_size", 0), ("double_quant_block_size", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def bits(self) -> int:
        """Of one code."""
        return 8 if self.algorithm == "weight_only_int8" else 4

    def block(self, in_features: int) -> int:
        """Weights of one block in a layer with so many inputs."""
        return self.block_size or in_features

    def num_blocks(self, in_features: int, out_features: int) -> int:
        return -(-in_features * out_features // self.block(in_features))

    def shapes(self, in_features: int, out_features: int) -> Dict[str, Any]:
        """Name -> (shape, type) of the arrays that hold the weight."""
        count, blocks = in_features * out_features, self.num_blocks(in_features, out_features)
        found = {"codes": ([-(-count * self.bits // 8)], "uint8")}
        if not self.double_quant:
            return {**found, "scales": ([blocks], "float32")}
        groups = -(-blocks // self.double_quant_block_size)
        second = {"scale_codes": ([blocks], "uint8"), "scale_scales": ([groups], "float32")}
        return {**found, **second, "scale_offset": ([1], "float32")}

    def num_bytes(self, in_features: int, out_features: int) -> int:
        """Of all arrays of the weight."""
        size = {"uint8": 1, "float32": 4}
        return sum(shape[0] * size[kind] for shape, kind in self.shapes(in_features, out_features).values())

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Scheme:
        """The scheme that `to_dict` wrote."""
        return cls(**content)

    def describe(self) -> str:
        """In a few words, for the plan."""
        block = f"blocks of {self.block_size}" if self.block_size else "a scale for each output channel"
        second = f", scales in 8 bits by {self.double_quant_block_size}" if self.double_quant else ""
        return f"{self.algorithm}, {block}{second}"
