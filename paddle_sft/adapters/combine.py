"""Several saved adapters of one base as one: a weighted sum, or what TIES and DARE make of it.

Methods have PEFT's names and meanings. Those on factors (linear, ties, ...) treat A and B apart, each weighted with the
root of the weight: cheap, and rough, because the sum of products is not the product of sums. cat and svd are the
weighted sum of the updates itself: exact, and the nearest matrix of a rank. Those that end in _svd do what the name
says to the updates as matrices, which may be of any method that adds a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
import paddle

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.base import Delta
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.fingerprint import is_same
from paddle_sft.adapters.mixing import MIXES, Draw
from paddle_sft.adapters.plain import PLAIN, as_lora, lora_config
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.arguments.combine import COMBINATIONS
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.tensorfile import to_float32
from paddle_sft.quant.choice import NO_SCHEMES

_NAMES = ("lora_a", "lora_b")
Factors = Tuple[np.ndarray, np.ndarray]
"""A [in, r], with the scaling in it, and B [r, out], float32."""


@dataclass(frozen=True)
class Combination:
    """How adapters become one."""

    method: str = "cat"
    weights: Tuple[float, ...] = ()
    rank: Optional[int] = None
    """Of the result, for methods that end in an SVD; None: the largest rank among the adapters."""
    density: float = 0.5
    """Share of the numbers that TIES and DARE keep."""
    seed: int = 42


def combine(adapters: Sequence[SavedAdapter], how: Combination, draw: Optional[Draw] = None) -> SavedAdapter:
    """One LoRA adapter from several adapters of the same base.

    Args:
        draw: (shape, density) -> what DARE keeps, 0 or 1; None draws from `how.seed`.

    Raises:
        ArgumentError: adapters that can't be combined (other bases, methods, ranks), with what to do instead.
    """
    choose("method", how.method, COMBINATIONS)
    _require_numbers(adapters, how)
    _require_alike(adapters)
    mix, in_matrices = how.method.replace("_svd", ""), how.method.endswith("svd")
    adapters = [_with_factors(one, in_matrices) for one in adapters]
    random = np.random.default_rng(how.seed)
    draw = draw or (lambda shape, density: (random.random(shape) < density).astype(np.float32))
    paths = list(dict.fromkeys(path for one in adapters for path in one.shapes))
    rank = how.rank or max(_rank_of(one, path) for one in adapters for path in one.shapes)
    found: Dict[str, Factors] = {}
    for path in paths:
        here = [(one, weight) for one, weight in zip(adapters, how.weights) if path in one.shapes]
        if how.method == "cat":
            found[path] = _behind_one_another(path, here)
        elif how.method == "svd" and all(one.method == "lora" for one, _ in here):
            found[path] = shorten(*_behind_one_another(path, here), rank)
        elif in_matrices:
            mixed = MIXES["linear" if mix == "svd" else mix](
                [_matrix(one, path) for one, _ in here], [weight for _, weight in here], how.density, draw
            )
            found[path] = _leading(mixed, rank)
        else:
            found[path] = _mix_factors(path, here, mix, how.density, draw)
    return _adapter(adapters, found)


def _require_numbers(adapters: Sequence[SavedAdapter], how: Combination) -> None:
    if len(adapters) < 2:
        raise ArgumentError(f"a combination needs at least two adapters, got {len(adapters)}")
    if len(how.weights) != len(adapters):
        raise ArgumentError(f"there are {len(adapters)} adapters and {len(how.weights)} weights; give one for each")
    if not all(np.isfinite(how.weights)):
        raise ArgumentError(f"weights must be finite numbers, got {list(how.weights)}")
    if not 0 < how.density <= 1:
        raise ArgumentError(f"density must be above 0 and at most 1, got {how.density}")
    if how.rank is not None and not how.method.endswith("svd"):
        raise ArgumentError(f"rank is {how.rank}, and method {how.method} has none to choose; leave it out, or use svd")


def _require_alike(adapters: Sequence[SavedAdapter]) -> None:
    first = adapters[0]
    for one in adapters:
        beyond = "a classifier's head" if one.classes else "new tokens" if one.new_rows else ""
        beyond = beyond or ("weights that were trained whole" if one.whole else "")
        if beyond:
            raise ArgumentError(f"{one.folder} has {beyond}, which can't be weighted; merge it into its base instead")
        differ = [path for path, shape in one.shapes.items() if first.shapes.get(path, shape) != shape]
        if differ or not is_same(first.fingerprint, one.fingerprint):
            raise ArgumentError(
                f"{first.folder} and {one.folder} were trained on different bases; combine adapters of one"
            )
        if (one.scaled_positions or {}) != (first.scaled_positions or {}):
            raise ArgumentError(f"{first.folder} and {one.folder} were trained with positions scaled differently")


def _with_factors(one: SavedAdapter, in_matrices: bool) -> SavedAdapter:
    """As LoRA where it is one; else as it is, if its update is a matrix that is added."""
    if one.method in PLAIN:
        return as_lora(one)
    layer = ADAPTERS[one.method].layer
    adds_matrix = layer and issubclass(layer, Delta) and layer.merged_bias is Delta.merged_bias
    if not adds_matrix or ADAPTERS[one.method].why_not_merge:
        raise ArgumentError(
            f"{one.folder} is an adapter of method {one.method}, which adds no matrix to a layer that could be "
            f"weighted; combine adapters of {', '.join(PLAIN)}, or merge them into the base one after the other"
        )
    if not in_matrices:
        raise ArgumentError(
            f"{one.folder} is an adapter of method {one.method}, without factors A and B; use svd or ties_svd"
        )
    return one


def _rank_of(one: SavedAdapter, path: str) -> int:
    return int(one.file.specs[f"{path}.lora_a"].shape[1]) if one.method == "lora" else 8


def _factors(one: SavedAdapter, path: str) -> Tuple[np.ndarray, np.ndarray, float]:
    a, b = (to_float32(one.file.read(f"{path}.{name}"), one.file.specs[f"{path}.{name}"].tag) for name in _NAMES)
    return a, b, one.config.for_path(path).scaling


def _matrix(one: SavedAdapter, path: str) -> np.ndarray:
    with paddle.no_grad():
        return one.update(path).delta_weight().numpy()


def _behind_one_another(path: str, here: Sequence[Tuple[SavedAdapter, float]]) -> Factors:
    """[w1 A1 | w2 A2 | ...] and B1 above B2 above ...: the weighted sum exactly."""
    found = [(_factors(one, path), weight) for one, weight in here]
    a = np.concatenate([weight * scaling * a for (a, _, scaling), weight in found], axis=1)
    return a.astype(np.float32), np.concatenate([b for (_, b, _), _ in found], axis=0)


def _mix_factors(
    path: str, here: Sequence[Tuple[SavedAdapter, float]], mix: str, density: float, draw: Draw
) -> Factors:
    found = [_factors(one, path) for one, _ in here]
    ranks = {a.shape[1] for a, _, _ in found}
    if len(ranks) > 1:
        raise ArgumentError(
            f"{path} has the ranks {', '.join(map(str, sorted(ranks)))}, and method {mix} adds factors of one rank; "
            "use cat, svd" + (f" or {mix}_svd" if mix != "linear" else "")
        )
    whole = [weight * scaling for (_, _, scaling), (_, weight) in zip(found, here)]
    roots = [float(np.sqrt(abs(weight))) for weight in whole]
    signed = [root if weight >= 0 else -root for root, weight in zip(roots, whole)]
    return (
        MIXES[mix]([a for a, _, _ in found], signed, density, draw),
        MIXES[mix]([b for _, b, _ in found], roots, density, draw),
    )


def shorten(a: np.ndarray, b: np.ndarray, rank: int) -> Factors:
    """The factors of the matrix of that rank that is nearest to A B: an SVD of the small core between two QRs."""
    left, core_left = np.linalg.qr(a.astype(np.float64))
    right, core_right = np.linalg.qr(b.astype(np.float64).T)
    u, s, v = np.linalg.svd(core_left @ core_right.T, full_matrices=False)
    rank = min(rank, len(s))
    a_new, b_new = left @ (u[:, :rank] * s[:rank]), v[:rank] @ right.T
    return a_new.astype(np.float32), b_new.astype(np.float32)


def _leading(matrix: np.ndarray, rank: int) -> Factors:
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return np.ascontiguousarray(u[:, :rank] * s[:rank]), np.ascontiguousarray(v[:rank])


def _adapter(adapters: Sequence[SavedAdapter], found: Dict[str, Factors]) -> SavedAdapter:
    """Scaling is in A already, so every alpha is the layer's rank."""
    first = adapters[0]
    ranks = {path: int(a.shape[1]) for path, (a, _) in found.items()}
    config: Any = lora_config(ranks, {path: float(rank) for path, rank in ranks.items()})
    arrays: Dict[str, np.ndarray] = {}
    shapes: Dict[str, Any] = {}
    for path, (a, b) in found.items():
        arrays.update({f"{path}.lora_a": np.ascontiguousarray(a), f"{path}.lora_b": np.ascontiguousarray(b)})
        shapes[path] = next(one.shapes[path] for one in adapters if path in one.shapes)
    same = all(one.schemes == first.schemes for one in adapters)
    schemes = first.schemes if same else NO_SCHEMES  # trained beside bases that were quantised differently
    return replace(first, method="lora", config=config, shapes=shapes, file=Arrays(arrays), schemes=schemes)
