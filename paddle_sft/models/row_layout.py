"""The segments of the rows that are computed now: where attention and positions of every layer look."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.attention.paths import Demand, Machine, Wish, against_kernel
from paddle_sft.attention.segments import Scoring, Wanted, beyond_kernels
from paddle_sft.masks.segments import (
    Segment,
    as_groups,
    shared_prefix_position_ids,
    shared_prefix_row_ends,
    shares_prefix,
    window_fits,
)
from paddle_sft.masks.virtual import put_before
from paddle_sft.models.rope import Rope
from paddle_sft.models.rotary_tables import RotaryTables
from paddle_sft.models.virtual import Places, VirtualTokens


class RowLayout:
    """The segments of the rows that are computed now; every attention layer of the model looks here.

    Set by the stage before a forward pass, and kept through its backward pass: recomputing asks again. While nothing is
    set (generation), a row is one segment without filling, which may go on from a cache.
    """

    def __init__(self, on_gpu: bool, rope: Optional[Rope] = None) -> None:
        self.machine = Machine(on_gpu, paddle.device.cuda.get_device_capability() if on_gpu else (0, 0))
        self.wish = Wish()
        """Which way the user wants attention computed."""
        self.recomputes = ""
        """What of an attention layer is computed again in the backward pass: core_attn (scores and weights), full_attn
        (all of the layer), or nothing."""
        self.segment_lengths: Optional[List[List[Segment]]] = None
        self.is_packed = False
        """Whether a row has several segments."""
        self._parts: List[List[int]] = []
        self._extents: List[List[int]] = []
        self._positions: Optional[np.ndarray] = None
        self.positions: Optional[Tensor] = None
        self._row_ends: Dict[int, Optional[Tensor]] = {}
        self._found: Dict[Any, Tuple[Tensor, Tensor]] = {}
        self.exchange: Any = None
        """Where each rank has a part of the tokens: makes of it all tokens of a part of the heads (`to_heads`), and
        back (`to_tokens`)."""
        self.heads_part = 0
        """Where each rank computes attention of a part of the heads: which of the equal parts this one has."""
        self.tokens_part: Tuple[int, int] = (0, 1)
        """(which, of how many equal ones) part of the tokens between the layers this rank has: of those of each row
        beside an `exchange`, else of all rows, one behind the other."""
        self.followers: List[Callable[[RowLayout], None]] = []
        """Called when rows are set."""
        self.virtual: List[VirtualTokens] = []
        """What may put virtual tokens before every sample (`models.virtual`)."""
        self.places: Optional[Places] = None
        """Where the tokens of the rows that were set stand among virtual ones; None without such."""
        self.wanted: Optional[Wanted] = None
        """What alone is computed of the rows that were set behind the keys and values of the last layer; None: all of
        them (`models.last_layer`)."""
        self.last_layer: Any = None
        """The model's last decoder layer, if it can leave out the rest."""
        self.prompt_lengths: Optional[Sequence[Sequence[int]]] = None
        """[B] rows: of each segment the tokens that nobody trains before the first that is trained; None: all."""
        self.turn(rope)

    def turn(self, rope: Optional[Rope]) -> None:
        """Turn tokens by these rotary positions from now on; None: the model has none."""
        self._tables = RotaryTables(rope) if rope else None
        self._found = {}

    @property
    def before(self) -> Optional[VirtualTokens]:
        """What puts virtual tokens before every sample now, if anything does."""
        return next((one for one in self.virtual if one.enabled), None)

    @property
    def shape(self) -> List[int]:
        """[B, T] of the rows that were set."""
        return list(self.positions.shape)

    def set(
        self,
        segment_lengths: Sequence[Sequence[Segment]],
        positions: Optional[np.ndarray] = None,
        prompt_lengths: Optional[Sequence[Sequence[int]]] = None,
    ) -> None:
        """[B] rows of segments, each row adding up to T.

        A segment is the length of a sample, or [prompt, answer, answer, ...]: the tokens of a prompt and of several
        answers, which lie in the row in this order. Each answer then computes what it would behind the prompt alone.

        Args:
            positions: [B, T] int64, of the tokens in their segments; None: from 0 on in each, and on from its prompt in
                an answer. Where they skip, a segment turns as one that is as long as its positions reach.
            prompt_lengths: see the attribute.

        Raises:
            ValueError: positions for prompts with several answers; or a prompt that would turn otherwise in front of
                each of its answers (see `Rope.key`), so that it can't stand in the row once.
        """
        before, self.prompt_lengths, self.wanted = self.before, prompt_lengths, None
        longer = put_before(segment_lengths, before.num_virtual, self.tokens_part[1]) if before else None
        self.places = Places(longer) if longer else None
        if longer and before.in_rows:  # rows as the layers see them
            positions = None if positions is None else longer.positions(positions)
            segment_lengths = longer.segment_lengths
        groups = [as_groups(row) for row in segment_lengths]
        if positions is None:
            positions = np.stack([shared_prefix_position_ids(row) for row in groups])
            extents = [[_longest_text(group) for group in row for _ in group] for row in groups]
            self._require_one_turn([as_groups(row) for row in longer.segment_lengths] if longer else groups)
        elif any(shares_prefix(row) for row in segment_lengths):
            raise ValueError("positions that skip can't be given for prompts with several answers")
        else:
            extents = [_reach(*row) for row in zip(positions, segment_lengths)]
        self.segment_lengths, self._extents = [list(row) for row in segment_lengths], extents
        self.is_packed = any(len(row) > 1 or len(row[0]) > 1 for row in groups)
        self._parts = [[length for group in row for length in group] for row in groups]
        if longer and not before.in_rows:
            self.segment_lengths, positions = longer.segment_lengths, positions + before.num_virtual
            self._extents = [[extent + before.num_virtual for extent in row] for row in extents]
        self._positions = positions.astype("int64")
        self.positions = paddle.to_tensor(self._positions)
        self._found, self._row_ends = {}, {}
        for follower in self.followers:
            follower(self)

    def here(self, places: np.ndarray) -> np.ndarray:
        """Of tokens of the rows that were set, by their numbers among all B * T, those that this rank has between the
        layers: their numbers among its own."""
        rank, parts = self.tokens_part
        width = self.shape[1] * (1 if self.exchange is not None else self.shape[0])
        run = width // parts
        row, column = np.divmod(places, width)
        return (row * run + column - rank * run)[column // run == rank]

    def clear(self) -> None:
        """Whole rows again, with a cache if the model is asked to keep one."""
        self.segment_lengths = self.positions = self.places = self.prompt_lengths = self.wanted = None
        self._found, self._row_ends = {}, {}

    def _require_one_turn(self, groups: List[List[List[int]]]) -> None:
        if self._tables is None:
            return
        key = self._tables.rope.key
        for prompt, *answers in (group for row in groups for group in row if len(group) > 2):
            if len({key(prompt + answer) for answer in answers}) > 1:
                raise ValueError(
                    f"rotary positions of kind {self._tables.rope.kind} turn a prompt of {prompt} tokens otherwise in "
                    f"front of each of its answers of {answers}; give every answer a prompt of its own"
                )

    def row_ends(self, window: int) -> Optional[Tensor]:
        """FlashMask form [B, 1, T, 1] int32 of the segments under a sliding window (0 for no limit); None where one
        number a token can't say it."""
        if window not in self._row_ends:
            groups = [as_groups(row) for row in self.segment_lengths]
            fits = all(window_fits(row, window) for row in groups)
            ends = [shared_prefix_row_ends(row, window) for row in groups] if fits else []
            self._row_ends[window] = paddle.to_tensor(np.stack(ends)[:, None, :, None]) if fits else None
        return self._row_ends[window]

    def takes_kernel(self, query: Tensor, scoring: Scoring) -> bool:
        """Whether Paddle's FlashMask kernel computes this (only on a GPU)."""
        if not self.machine.on_gpu:
            return False
        dtype = str(query.dtype).rsplit(".", 1)[-1]
        demand = Demand(dtype, query.shape[-1], beyond_kernels(scoring), self.is_packed)
        return not against_kernel(self.wish, self.machine, demand) and self.row_ends(scoring.window) is not None

    def where(self, num_rows: int, width: int, past: int) -> Tensor:
        """Positions [B, T] of the tokens in their segments, `past` tokens of which were read before.

        Raises:
            ValueError: rows of another shape than the segments that were set.
        """
        if self.segment_lengths is None:
            past = self._begin(past)
            return paddle.arange(past, past + width).expand([num_rows, width])
        if list(self.positions.shape) != [num_rows, width]:
            raise ValueError(
                f"segments were set for rows {list(self.positions.shape)}, the rows are {[num_rows, width]}; "
                "call model.row_layout.set for these rows, or clear it"
            )
        return self.positions

    def longest(self, width: int, past: int) -> int:
        """How far the positions reach, what was read before included: the longest segment, unless they skip."""
        if self.segment_lengths is None:
            return self._begin(past) + width
        return max(max(row) for row in self._extents)

    def _begin(self, past: int) -> int:
        """The position behind `past` tokens: a cache holds the virtual ones that have keys and values, and before there
        is one they are missing in `past`."""
        return past or (self.before.num_virtual if self.before and not self.before.in_rows else 0)

    def goes_on(self, past: int, width: int) -> bool:
        """Whether a cache of `past` tokens holds what they are in a row of `past` + `width`: their rotary positions may
        depend on the row's length."""
        if self._tables is None or not past:
            return True
        return self._tables.rope.key(past) == self._tables.rope.key(past + width)

    def rotary(self, num_rows: int, width: int, past: int, dtype: Any) -> Tuple[Tensor, Tensor]:
        """cos and sin [B, T, 1, D] of the tokens that `where` finds; looked up once for all layers.

        Raises:
            ValueError: a cache that doesn't go on (see `goes_on`).
        """
        if not self.goes_on(past, width):
            raise ValueError(
                f"rotary positions of this kind turn all tokens otherwise in a row of {past + width} than in one of "
                f"{past}; read the whole row again, without the cache"
            )
        asked = (num_rows, width, past, dtype)
        if asked not in self._found:
            self.where(num_rows, width, past)  # the rows are those that were set
            if self.segment_lengths is None:
                past = self._begin(past)
                positions = np.arange(past, past + width)[None].repeat(num_rows, 0)
                lengths = extents = [[past + width]] * num_rows
            else:
                positions, lengths, extents = self._positions, self._parts, self._extents
            cos, sin = self._tables.look_up(positions, lengths, extents)
            self._found = {asked: (cos.astype(dtype), sin.astype(dtype))}
        return self._found[asked]


def _reach(positions: np.ndarray, segment_lengths: Sequence[int]) -> List[int]:
    """The first position behind each segment of a row [T]."""
    starts = np.cumsum([0, *segment_lengths[:-1]])
    return (np.maximum.reduceat(positions, starts) + 1).tolist()


def _longest_text(group: List[int]) -> int:
    return group[0] + max(group[1:], default=0)
