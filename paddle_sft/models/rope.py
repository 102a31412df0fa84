"""Rotary positions: how fast each pair of a head's numbers turns, for every kind of scaling.

A token at position p turns pair i by the angle p * f_i (Su et al. 2021, https://arxiv.org/abs/2104.09864). The kinds
differ in the frequencies f, and some also scale the turned numbers. Computed in the steps and the precision (float32)
of transformers 5: at position 100,000 one bit of a frequency is visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional

import numpy as np

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a model."""

    kind: str
    theta: float
    size: int
    """Numbers of a head that turn, the first ones; an odd number is rounded up."""
    longest: int
    """max_position_embeddings."""
    original: int
    """Tokens the model was trained for before it was extended."""
    scaling: Settings
    """The config's rope_scaling."""

    def key(self, length: int) -> int:
        """A length whose frequencies are those of a sample of `length` tokens; equal for samples that share a table.

        As in transformers for a sample by itself: dynamic grows with every token beyond max_position_embeddings,
        longrope has two sets of frequencies.
        """
        if self.kind == "dynamic":
            return max(length, self.longest)
        if self.kind == "longrope":
            return self.original + (length > self.original)
        return self.longest

    def frequencies(self, length: int) -> np.ndarray:
        """[size / 2], float32: radians a token, for a sample of `length` tokens."""
        return FREQUENCIES[self.kind](self, self.key(length)).astype(np.float32)

    @property
    def attention_factor(self) -> float:
        """What the cosines and sines are multiplied by, so that attention over more tokens stays as sharp."""
        if self.kind not in ("yarn", "longrope"):
            return 1.0
        given = self.scaling.get("attention_factor")
        if given is not None:
            return float(given)
        if self.kind == "longrope":
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original)) if self.factor > 1 else 1.0
        weight, divisor = self.scaling.get("mscale"), self.scaling.get("mscale_all_dim")
        if weight and divisor:
            return _yarn_sharpness(self.factor, weight) / _yarn_sharpness(self.factor, divisor)
        return _yarn_sharpness(self.factor, 1.0)

    @property
    def factor(self) -> float:
        """How many times longer than the original its texts may be."""
        given = self.scaling.get("factor")
        return self.longest / self.original if given is None else float(given)

    @property
    def usual(self) -> np.ndarray:
        """[size / 2], float32: theta ** (-2 i / size)."""
        return np.float32(1) / self.powers(self.theta)

    def powers(self, theta: float) -> np.ndarray:
        """[size / 2], float32: theta ** (2 i / size), each rounded once."""
        exponents = np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        return np.power(float(theta), exponents.astype(np.float64)).astype(np.float32)


def _linear(rope: Rope, length: int) -> np.ndarray:
    """Positions divided by the factor (Chen et al. 2023, https://arxiv.org/abs/2306.15595)."""
    return rope.usual / np.float32(rope.factor)


def _dynamic(rope: Rope, length: int) -> np.ndarray:
    """A theta that grows with the sample ("dynamic NTK"; described in Peng et al. 2023, section 3.3)."""
    if length == rope.longest:
        return rope.usual
    growth = np.float32(rope.factor) * np.float32(length) / np.float32(rope.longest) - np.float32(rope.factor - 1)
    return np.float32(1) / rope.powers(np.float32(rope.theta) * growth ** np.float32(rope.size / (rope.size - 2)))


def _yarn(rope: Rope, length: int) -> np.ndarray:
    """Slow pairs divided by the factor, fast ones left, a ramp between (Peng et al. 2023,
    https://arxiv.org/abs/2309.00071, section 3.2); beta_fast and beta_slow are turns within the original length."""
    turns = (rope.scaling.get("beta_fast") or 32, rope.scaling.get("beta_slow") or 1)
    low, high = (
        rope.size * math.log(rope.original / (turn * 2 * math.pi)) / (2 * math.log(rope.theta)) for turn in turns
    )
    if rope.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.size - 1)
    high += 0.001 if low == high else 0.0
    pairs = np.arange(rope.size // 2, dtype=np.float32)
    ramp = np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
    powers = rope.powers(rope.theta)
    slow, fast = np.float32(1) / (np.float32(rope.factor) * powers), np.float32(1) / powers
    return slow * ramp + fast * (1 - ramp)


def _yarn_sharpness(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope(rope: Rope, length: int) -> np.ndarray:
    """A divisor for every pair, one list for short samples, one for long (Ding et al. 2024,
    https://arxiv.org/abs/2402.13753)."""
    divisors = rope.scaling["long_factor" if length > rope.original else "short_factor"]
    return np.float32(1) / (np.asarray(divisors, dtype=np.float32) * rope.powers(rope.theta))


def _llama3(rope: Rope, length: int) -> np.ndarray:
    """Waves longer than the original length divided by the factor, short ones left, a ramp between (Llama 3.1,
    https://arxiv.org/abs/2407.21783)."""
    usual, factor = rope.usual, np.float32(rope.factor)
    low, high = float(rope.scaling["low_freq_factor"]), float(rope.scaling["high_freq_factor"])
    waves = np.float32(2 * math.pi) / usual
    smooth = (np.float32(rope.original) / waves - np.float32(low)) / np.float32(high - low)
    ramp = (1 - smooth) * usual / factor + smooth * usual
    found = np.where(waves > np.float32(rope.original / low), usual / factor, usual)
    between = (waves >= np.float32(rope.original / high)) & (waves <= np.float32(rope.original / low))
    return np.where(between, ramp, found)


FREQUENCIES: Dict[str, Callable[[Rope, int], np.ndarray]] = {
    "default": lambda rope, length: rope.usual,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}

_NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def rope_of(settings: Settings) -> Optional[Rope]:
    """The rotary positions that a config (as `models.config.read_config` spells it) describes; None if it has none."""
    if not settings.get("rope_theta"):
        return None
    scaling = settings.get("rope_scaling") or {}
    longest = settings.get("max_position_embeddings") or 0
    original = settings.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    head = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    size = int(head * (settings.get("partial_rotary_factor") or 1.0))
    return Rope(_kind(scaling), float(settings["rope_theta"]), size, longest, original or longest, scaling)


def _kind(scaling: Settings) -> str:
    return scaling.get("rope_type") or scaling.get("type") or "default"


def refuse_rope(*kinds: str, partial: bool = False) -> Callable[[Settings], str]:
    """A family's refusal of rotary positions that transformers' network of it could not have: other kinds than these,
    parts of heads unless `partial`, keys that are missing."""

    def refuse(config: Settings) -> str:
        scaling = config.get("rope_scaling") or {}
        kind = _kind(scaling)
        if kind not in kinds:
            return f"rope_scaling of type {kind!r} (available: {', '.join(kinds)})"
        missing = [key for key in _NEEDED.get(kind, ()) if scaling.get(key) is None]
        if missing:
            return f"rope_scaling of type {kind!r} without {' and '.join(missing)}"
        share = config.get("partial_rotary_factor")
        if share not in (None, 1, 1.0) and not partial:
            return f"partial_rotary_factor {share} (this class turns whole heads)"
        return _wrong_sizes(rope_of({"rope_theta": 1e4, "num_attention_heads": 1, "hidden_size": 0, **config}), partial)

    return refuse


def _wrong_sizes(rope: Optional[Rope], partial: bool) -> str:
    if rope is None or not rope.size:
        return ""
    lengths = {key: len(rope.scaling[key]) for key in ("short_factor", "long_factor") if rope.kind == "longrope"}
    wrong = [f"{key} has {length}" for key, length in lengths.items() if length != (rope.size + 1) // 2]
    if wrong:
        return f"rope_scaling of type 'longrope' whose {' and '.join(wrong)} numbers ({rope.size} turn, in pairs)"
    if rope.size % 2 and not partial:
        return f"heads of {rope.size} numbers (an even number turns in pairs)"
    if rope.kind == "dynamic" and rope.size < 4:
        return f"rope_scaling of type 'dynamic' for heads of {rope.size} numbers (at least 4)"
    return ""
