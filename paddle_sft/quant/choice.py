"""Which linear layers are stored by which scheme."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from paddle_sft.core.errors import ArgumentError
from paddle_sft.quant.scheme import DEFAULT_BLOCK, Scheme

Schemes = Mapping[str, Scheme]
"""Path of a linear layer -> its scheme; layers that are not there stay as they are."""
NO_SCHEMES: Schemes = MappingProxyType({})


@dataclass(frozen=True)
class Choice:
    """What a user decides about a quantised base."""

    algorithms: Union[str, Mapping[str, Sequence[str]]]
    """One algorithm for every linear layer, or algorithm -> names or regular expressions of the layers it is for."""
    block_size: Optional[int] = None
    """None: 64 for nf4 and fp4, an output channel for whole numbers."""
    double_quant: bool = False
    double_quant_block_size: int = 256

    asker = "weight_quantize_algo asks for"
    remedy = "leave the quantisation keys out, or name the model of floats that it was made from"

    def scheme(self, algorithm: str) -> Scheme:
        block = DEFAULT_BLOCK.get(algorithm, 0) if self.block_size is None else self.block_size
        return Scheme(algorithm, block, self.double_quant, self.double_quant_block_size)

    def schemes(self, paths: Sequence[str]) -> Dict[str, Scheme]:
        """Path -> scheme, in the order of `paths`, which are all linear layers of a model.

        Raises:
            ArgumentError: a pattern that matches no layer, or two algorithms for one layer.
        """
        if isinstance(self.algorithms, str):
            return dict.fromkeys(paths, self.scheme(self.algorithms))
        found: Dict[str, str] = {}
        for algorithm, patterns in self.algorithms.items():
            for path in [path for pattern in patterns for path in _matching(pattern, paths)]:
                if found.setdefault(path, algorithm) != algorithm:
                    raise ArgumentError(
                        f"weight_quantize_algo gives {path} to {found[path]} and to {algorithm}; let their patterns "
                        "match different layers"
                    )
        return {path: self.scheme(found[path]) for path in paths if path in found}


@dataclass(frozen=True)
class AsTrained:
    """The choice that an adapter was trained with, layer by layer."""

    layers: Schemes

    asker = "the adapter was trained on"
    remedy = "name the base that it was trained on"

    def schemes(self, paths: Sequence[str]) -> Dict[str, Scheme]:
        return {path: self.layers[path] for path in paths if path in self.layers}


AnyChoice = Union[Choice, AsTrained]


def _matching(pattern: str, paths: Sequence[str]) -> List[str]:
    """Paths that end with a name, or else that an expression matches whole."""
    named = [path for path in paths if path == pattern or path.endswith("." + pattern)]
    try:
        found = named or [path for path in paths if re.fullmatch(pattern, path)]
    except re.error as error:
        raise ArgumentError(f"weight_quantize_algo: {pattern!r} is not a regular expression: {error}") from error
    if found:
        return found
    last_names = list(dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths))
    near = get_close_matches(re.sub(r"[^\w.]", "", pattern).rsplit(".", 1)[-1], last_names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    raise ArgumentError(
        f"weight_quantize_algo: {pattern!r} matches no layer{hint} linear layers here: {', '.join(last_names)} "
        f"(a whole path: {paths[0] if paths else 'none'})"
    )


def to_list(schemes: Schemes) -> List[Dict[str, Any]]:
    """As JSON: each scheme once, with the paths that have it."""
    layers: Dict[Scheme, List[str]] = {}
    for path, scheme in schemes.items():
        layers.setdefault(scheme, []).append(path)
    return [{**scheme.to_dict(), "layers": paths} for scheme, paths in layers.items()]


def from_list(content: Sequence[Mapping[str, Any]]) -> Dict[str, Scheme]:
    """What `to_list` wrote.

    Raises:
        KeyError, TypeError, ArgumentError: it is something else.
    """
    found: Dict[str, Scheme] = {}
    for entry in content:
        scheme = Scheme.of({key: value for key, value in entry.items() if key != "layers"})
        found.update(dict.fromkeys(entry["layers"], scheme))
    return found
