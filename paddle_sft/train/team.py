"""What the ranks of a run do together in a step: add up gradients, measure and clip their norm, share out the update.

The sums are written out here rather than left to fleet's wrappers (paddlepaddle 3.3.1): those take the mean over ranks,
where a step is divided by its trained tokens and by nothing else; they count a tied embedding twice in the norm under
pipelines; and sharding's optimizer takes no groups of parameters.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_sft.models.split import part_of
from paddle_sft.parallel.groups import Groups, gather_objects
from paddle_sft.parallel.topology import Layout
from paddle_sft.train.gradients import sum_over_ranks
from paddle_sft.train.shards import GradientShards
from paddle_sft.train.weight_shards import WeightShards


class Team:
    """All ranks of a run as one of them sees them; without groups it is alone.

    Args:
        model: of which this rank holds its share; with `embedding_name` if it is a share.
    """

    def __init__(self, groups: Optional[Groups] = None, model: Any = None) -> None:
        self.groups = groups
        self.layout = groups.layout if groups else Layout()
        place = groups.place if groups else dict.fromkeys(("tensor", "pipeline", "sharding"), 0)
        self.rank = groups.rank if groups else 0
        self.num_data = self.layout.data_ranks
        self.data_rank = groups.data_rank if groups else 0
        self.is_first_stage = place["pipeline"] == 0
        self.is_last_stage = place["pipeline"] == self.layout.pipeline - 1
        self.sep_rank = groups.place["sep"] if groups else 0
        parts = [place["pipeline"] + self.layout.pipeline * chunk for chunk in range(self.layout.chunks)]
        self.seed_ranks = [self.data_rank + self.num_data * (self.sep_rank + self.layout.sep * part) for part in parts]
        """Of each part of the stack that this rank holds. Ranks of tensor parallelism compute the same activations, so
        they draw the same dropout; the others don't."""
        self.seed_rank = self.seed_ranks[0]
        self.reports_loss = place["tensor"] == 0 and self.is_last_stage
        """Whether its losses count; the ranks beside it computed the same ones, or none."""
        self._is_first_part = place["tensor"] == 0
        self._shard = place["sharding"]
        self._tied = _tied_copy(model) if self.layout.pipeline > 1 else None
        self._gradients: Optional[GradientShards] = None
        self._weights: Optional[WeightShards] = None

    @property
    def is_split(self) -> bool:
        """Whether no rank has everything that is to be saved."""
        return self.clips

    @property
    def clips(self) -> bool:
        """Whether the norm is clipped here: an optimizer that sees a part of the gradients can't."""
        return self.layout.tensor * self.layout.pipeline * self.layout.sharding > 1

    @property
    def is_in_step(self) -> bool:
        """Whether all ranks have to make the same passes: each has something that the others need for theirs."""
        return self.layout.stage > 1

    def share_out(self, model: Any, trainable: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Begin with sharding of gradients (stage 2) or weights (stage 3), if that is asked for; returns the trained
        parameters that this rank updates or holds, under the same names."""
        if self.layout.stage == 3:
            self._weights = WeightShards(model, self.groups.sharding)
            return self._weights.rows_of(trainable)
        if self.layout.stage == 2:
            self._gradients = GradientShards(trainable, self.owners(trainable), self.groups.sharding)
        return trainable

    def share_out_again(self) -> None:
        """The model's weights were read anew."""
        if self._weights is not None:
            self._weights.keep()

    def held(self, tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """What this rank has of the model's parameters."""
        return tensors if self._weights is None else self._weights.rows_of(tensors)

    @contextmanager
    def micro_batch(self, has_gradients: bool = True) -> Iterator[None]:
        """Around the passes of a micro-batch, or of none where others have one."""
        if self._weights is not None:
            self._weights.open()
        if self._gradients is not None and has_gradients:
            self._gradients.open()
        yield
        if self._gradients is not None and has_gradients:
            self._gradients.close()
        if self._weights is not None:
            self._weights.close(has_gradients)

    def same_start(self, parameters: Sequence[Tensor]) -> None:
        """Give all ranks with the same weights those of the first of them."""
        group = self.groups.replicas if self.groups else None
        if group is not None:
            for parameter in parameters:
                dist.broadcast(parameter, src=group.ranks[0], group=group)

    # ---- gradients ---------------------------------------------------------------------------------------------

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Make every gradient that of the whole step, in place."""
        if self.groups is None:
            return
        if self._gradients is not None:
            self._gradients.hand_over()
            if self.groups.copies is not None:
                sum_over_ranks([one for one in parameters if one.grad is not None], self.groups.copies)
            return
        if self._weights is not None:
            if self.groups.copies is not None:
                sum_over_ranks([one for one in parameters if part_of(one) is not None], self.groups.copies)
            parameters = [one for one in parameters if part_of(one) is None]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = paddle.zeros_like(parameter)
        if self.groups.replicas is not None and parameters:
            sum_over_ranks(parameters, self.groups.replicas)
        of_tokens = [parameter for parameter in parameters if getattr(parameter, "sequence_parallel", False)]
        if of_tokens and self.groups.tensor is not None:
            sum_over_ranks(of_tokens, self.groups.tensor)
        on_every_stage = [parameter for parameter in parameters if getattr(parameter, "on_every_stage", False)]
        if on_every_stage:
            sum_over_ranks(on_every_stage, self.groups.pipeline)
        if self._tied is not None and not self._tied.stop_gradient and self.groups.ends is not None:
            sum_over_ranks([self._tied], self.groups.ends)

    def norm(self, parameters: Sequence[Tensor]) -> float:
        """Euclidean norm of the gradients of all weights, each counted once, after `sum_gradients`."""
        found = [parameter for parameter in parameters if parameter.grad is not None and self._counts(parameter)]
        squares = [parameter.grad.astype("float32").square().sum() for parameter in found]
        total = paddle.add_n(squares).astype("float64").reshape([1]) if squares else paddle.zeros([1], "float64")
        group = self.groups.model if self.groups else None
        if self.is_in_step:
            group = self.groups.sharding
        if group is not None:
            dist.all_reduce(total, group=group)
        return math.sqrt(total.item())

    def _counts(self, parameter: Tensor) -> bool:
        if not self.is_first_stage and (parameter is self._tied or getattr(parameter, "on_every_stage", False)):
            return False
        if self._weights is not None and self._shard > 0:
            return part_of(parameter) is not None
        return self._is_first_part or part_of(parameter) is not None

    @paddle.no_grad()
    def clip(self, parameters: Sequence[Tensor], norm: float, largest: float) -> None:
        """Scale the gradients, in place, so that their norm is `largest` at most; 0 for no limit."""
        if largest > 0 and norm > largest:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.scale_(largest / norm)

    # ---- the update --------------------------------------------------------------------------------------------

    def update(self, optimizer: Any, parameters: Dict[str, Tensor]) -> None:
        """An optimizer step. With sharding each rank updates its own weights, and sends them to the others: the
        optimizer's state of a weight is on one rank only."""
        if self.layout.sharding == 1:
            optimizer.step()
            return
        shared = parameters
        if self._weights is not None:
            shared = {name: one for name, one in parameters.items() if part_of(one) is None}
        owners = self.owners(shared)
        for name, parameter in shared.items():
            if owners[name] != self._shard:
                parameter.clear_gradient(False)
        optimizer.step()
        group = self.groups.sharding
        for name, parameter in shared.items():
            dist.broadcast(parameter, src=group.ranks[owners[name]], group=group)

    def owners(self, parameters: Dict[str, Tensor]) -> Dict[str, int]:
        """Name -> the rank of the sharding group that updates it: the largest first, each to who has least so far."""
        loads: List[int] = [0] * self.layout.sharding
        found = {}
        for name in sorted(parameters, key=lambda name: (-parameters[name].size, name)):
            found[name] = loads.index(min(loads))
            loads[found[name]] += int(parameters[name].size)
        return found

    def shares(self, parameters: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], Set[str]]:
        """Of all trained parameters of the run those whose optimizer state is here, and the names of the others. All
        ranks call it."""
        if self.groups is None:
            return parameters, set()
        known = {name for names in gather_objects(list(parameters), self.groups.pipeline) for name in names}
        mine = parameters
        if self.layout.sharding > 1:
            of_all = self._weights is not None  # a matrix's rows are here, of which each rank has some
            rows = {name: one for name, one in parameters.items() if of_all and part_of(one) is not None}
            owners = self.owners({name: one for name, one in parameters.items() if name not in rows})
            mine = {n: one for n, one in parameters.items() if n in rows or owners[n] == self._shard}
        return mine, known - set(mine)


def _tied_copy(model: Any) -> Optional[Tensor]:
    """The embedding, where it is the head too and so is on the first and on the last stage."""
    if model is None or "lm_head.weight" in model.whole_shapes:
        return None
    return dict(model.state_dict()).get(model.embedding_name)
