"""How the weights of a network are called, split and laid out in a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Container, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

from paddle_sft.core.errors import ModelError
from paddle_sft.models.catalogue import FAMILIES

Region = Tuple[Union[int, slice], ...]
"""Part of a tensor along its first axes, as numpy indexes it: (slice(0, 64),), (3,), (slice(None), slice(64, 128))."""


@dataclass(frozen=True)
class Piece:
    """One region of a Paddle tensor that is one region of a Hugging Face tensor.

    Nearly always both are whole tensors. A tensor that is fused on one side is several pieces: one for each part.
    """

    paddle: str
    hf: str
    transposed: bool = False
    """The last two axes are swapped: linear layers are [out, in] there and [in, out] in Paddle."""
    paddle_at: Region = ()
    hf_at: Region = ()
    second: bool = False
    """Of another spelling that folders have: read where the first isn't there, never written."""

    @property
    def is_whole(self) -> bool:
        return not self.paddle_at and not self.hf_at

    def turned(self, array: np.ndarray) -> np.ndarray:
        """A view of a region, from one side's orientation to the other's."""
        return array.swapaxes(-1, -2) if self.transposed else array


class RenameTable:
    """All pieces of a network, to be asked from either side."""

    def __init__(self, pieces: Iterable[Piece], buffers: Tuple[str, ...] = ()) -> None:
        self.buffers = ("rotary_emb.inv_freq", *buffers)
        """Ends of the names of stored tensors that are computed from the config: no weights."""
        self.of_paddle: Dict[str, List[Piece]] = {}
        self.of_hf: Dict[str, List[Piece]] = {}
        self._second: Dict[str, List[Piece]] = {}
        self._second_hf: Set[str] = set()
        for piece in pieces:
            if piece.second:
                self._second.setdefault(piece.paddle, []).append(piece)
                self._second_hf.add(piece.hf)
            else:
                self.of_paddle.setdefault(piece.paddle, []).append(piece)
                self.of_hf.setdefault(piece.hf, []).append(piece)

    def find_hf(self, stored: str) -> Optional[str]:
        """The Hugging Face name that a stored name means; it may lack its model's prefix (old bloom folders)."""
        names = [stored] + [f"{prefix}.{stored}" for prefix in ("model", "transformer")]
        return next((name for name in names if name in self.of_hf or name in self._second_hf), None)

    def second_spelling(self, paddle: str) -> List[Piece]:
        """The pieces of a Paddle tensor in the other spelling that folders have; [] if there is none."""
        return self._second.get(paddle, [])

    def sources(self, paddle: str, names: Container[str]) -> List[Piece]:
        """The pieces of a Paddle tensor in the spelling of which all tensors are among these names; [] if none is."""
        spellings = (self.of_paddle[paddle], self._second.get(paddle, []))
        return next((pieces for pieces in spellings if pieces and all(piece.hf in names for piece in pieces)), [])


def rename_table(model_class: Any, config: Any) -> RenameTable:
    """The table of a network class.

    A class with fused tensors says so itself: `weight_pieces(config)` returns all its pieces. For the others
    PaddleNLP's own conversion table of the family is read.
    """
    family = FAMILIES.get(getattr(config, "model_type", ""))
    return RenameTable(pieces_of(model_class, config), family.buffers if family else ())


def pieces_of(model_class: Any, config: Any) -> List[Piece]:
    """All pieces of a network class."""
    if hasattr(model_class, "weight_pieces"):
        return list(model_class.weight_pieces(config))
    return whole_pieces(model_class, config)


def whole_pieces(model_class: Any, config: Any) -> List[Piece]:
    """The pieces in PaddleNLP's conversion table of a class, which names whole tensors.

    Raises:
        ModelError: the table asks for more than a transposition.
    """
    pieces = []
    for mapping in model_class._get_name_mappings(config):
        if mapping.action not in (None, "transpose"):
            raise ModelError(
                f"{model_class.__name__}: {mapping.target_name} needs {mapping.action}, which is not available yet"
            )
        pieces.append(Piece(mapping.target_name, mapping.source_name, mapping.action == "transpose"))
    return pieces


def fused(paddle: Sequence[str], hf: str, sizes: Sequence[int], axis: int = 0, transposed: bool = False) -> List[Piece]:
    """Several Paddle tensors that lie behind one another along an axis of one Hugging Face tensor."""
    return [Piece(name, hf, transposed, (), at) for name, at in zip(paddle, _along(sizes, axis))]


def split(paddle: str, hf: Sequence[str], sizes: Sequence[int], axis: int = 0, transposed: bool = False) -> List[Piece]:
    """One Paddle tensor that is several Hugging Face tensors behind one another along an axis of Paddle's."""
    return [Piece(paddle, name, transposed, at) for name, at in zip(hf, _along(sizes, axis))]


def stacked(paddle: str, hf: Sequence[str], transposed: bool = False) -> List[Piece]:
    """One Paddle tensor with a first axis over several Hugging Face tensors (experts)."""
    return [Piece(paddle, name, transposed, (number,)) for number, name in enumerate(hf)]


def stacked_experts(paddle: Sequence[str], kinds: Sequence[str], hf: str, width: int) -> List[Piece]:
    """The experts of a layer as transformers 5 has them in memory, and writes them on demand.

    Args:
        paddle: for each expert the names of its weights, with {} for the kind; they are linear layers.
        kinds: the gate, up and down projections of an expert.
        hf: the prefix of gate_up_proj [E, 2 width, H] and down_proj [E, H, width].
        width: the inner size of an expert.
    """
    gate, up, down = kinds
    pieces = []
    for number, name in enumerate(paddle):
        for kind, at in ((gate, slice(0, width)), (up, slice(width, 2 * width))):
            pieces.append(Piece(name.format(kind), f"{hf}.gate_up_proj", True, (), (number, at), second=True))
        pieces.append(Piece(name.format(down), f"{hf}.down_proj", True, (), (number,), second=True))
    return pieces


def _along(sizes: Sequence[int], axis: int) -> List[Region]:
    ends = np.cumsum(sizes)
    return [(slice(None),) * axis + (slice(int(end - size), int(end)),) for end, size in zip(ends, sizes)]


def whole_shape(regions: Sequence[Tuple[Region, Tuple[int, ...]]]) -> Tuple[int, ...]:
    """The shape of a tensor from its regions, each with the shape of what fills it."""
    at, shape = regions[0]
    sizes = list(shape)
    for axis, part in enumerate(at):
        if isinstance(part, int):
            sizes.insert(axis, 1 + max(other[axis] for other, _ in regions))
        elif part.stop is not None:
            sizes[axis] = max(other[axis].stop for other, _ in regions)
    return tuple(sizes)


def region_shape(at: Region, shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """The shape of a region of a tensor of this shape."""
    sizes: List[int] = []
    for axis, size in enumerate(shape):
        part = at[axis] if axis < len(at) else slice(None)
        if isinstance(part, slice):
            sizes.append(len(range(*part.indices(size))))
    return tuple(sizes)
