"""The communication groups of one rank, made once a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import paddle
import paddle.distributed as dist

from paddle_sft.parallel.topology import AXES, Layout

_FLEET = {"data": "dp", "pipeline": "pp", "sharding": "sharding", "sep": "sep", "tensor": "mp"}


@dataclass(frozen=True)
class Groups:
    """This rank's groups; None where it would be alone."""

    layout: Layout
    rank: int
    place: Dict[str, int]
    world: Any
    tensor: Optional[Any] = None
    pipeline: Optional[Any] = None
    sharding: Optional[Any] = None
    sep: Optional[Any] = None
    data: Optional[Any] = None
    """Ranks with other rows: data and sharding."""
    copies: Optional[Any] = None
    """Ranks with the same share of sharding's state: data alone."""
    replicas: Optional[Any] = None
    """Ranks with the same weights: data, sharding and sep."""
    model: Optional[Any] = None
    """Ranks that hold the parts of one copy of the weights: pipeline and tensor."""
    ends: Optional[Any] = None
    """First and last stage of this rank's pipeline; None on the stages between."""

    @property
    def data_rank(self) -> int:
        return self.layout.data_rank(self.rank)


def start(layout: Layout) -> Groups:
    """Start fleet with the layout, and make the groups. Every rank calls it once, before a model is built."""
    from paddle.distributed import fleet

    if paddle.get_device() == "cpu":
        from paddle_sft.parallel import cpu_backend

        cpu_backend.install()
    strategy = fleet.DistributedStrategy()
    degrees = {f"{_FLEET[axis]}_degree": getattr(layout, axis) for axis in AXES}
    strategy.hybrid_configs = {**degrees, "order": [_FLEET[axis] for axis in AXES]}
    pipeline = strategy.hybrid_configs["pp_configs"]
    pipeline.enable_dynamic_shape = True  # rows of a step differ in length
    pipeline.delay_scale_loss = True  # the loss is divided by the trained tokens of the step, and by nothing else
    if layout.chunks > 1:  # a message goes one way: see train.schedules
        pipeline.overlap_p2p_comm, pipeline.use_batch_p2p_comm = True, False
    strategy.pipeline_configs = {"accumulate_steps": 1, "micro_batch_size": 1, "enable_partial_send_recv": False}
    fleet.init(is_collective=True, strategy=strategy)
    rank = dist.get_rank()
    # Paddle's layers of tensor parallelism draw from this state when they are made, even what a folder then fills
    random = fleet.meta_parallel.get_rng_state_tracker()
    random.reset()
    random.add("model_parallel_rng", layout.place(rank)["tensor"])
    wanted = {
        "tensor": ("tensor",),
        "pipeline": ("pipeline",),
        "sharding": ("sharding",),
        "sep": ("sep",),
        "copies": ("data",),
        "data": ("data", "sharding"),
        "replicas": ("data", "sharding", "sep"),
        "model": ("pipeline", "tensor"),
    }
    hcg = fleet.get_hybrid_communicate_group()
    known = {"tensor": hcg.get_model_parallel_group, "pipeline": hcg.get_pipe_parallel_group}
    made: Dict[str, Any] = {}
    for name, axes in wanted.items():
        lists = layout.groups(axes)
        if len(lists[0]) > 1:
            made[name] = known[name]() if name in known else _group_of(rank, lists)
    if layout.pipeline > 1:
        made["ends"] = _group_of(rank, [[one[0], one[-1]] for one in layout.groups(("pipeline",))])
    return Groups(layout, rank, layout.place(rank), dist.get_group(0), **made)


def _group_of(rank: int, lists: Sequence[Sequence[int]]) -> Optional[Any]:
    """Every rank takes part in the making of every group; it gets the one that it is in."""
    mine = None
    for ranks in lists:
        group = dist.new_group(list(ranks))
        if rank in ranks:
            mine = group
    return mine


def gather_objects(content: Any, group: Optional[Any]) -> List[Any]:
    """What every rank of a group gave, in its order."""
    if group is None:
        return [content]
    found: List[Any] = []
    dist.all_gather_object(found, content, group=group)
    return found
