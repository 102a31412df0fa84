"""The ranks of a run: their layout from the arguments, and what of the model this one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.fingerprint import fingerprint
from paddle_sft.arguments.check_parallel import sharding_stage
from paddle_sft.arguments.load import Arguments
from paddle_sft.arguments.parallel import ParallelArguments
from paddle_sft.core.errors import ArgumentError, DataError, ModelError, PaddleSFTError
from paddle_sft.core.log import num_ranks
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.fingerprint import Mark, spots
from paddle_sft.models.linears import features, find_linears, is_elsewhere
from paddle_sft.models.quantised import schemes_of
from paddle_sft.models.split import Share, part_of
from paddle_sft.parallel.agree import agree
from paddle_sft.parallel.groups import Groups, gather_objects, start
from paddle_sft.parallel.heads import HeadExchange
from paddle_sft.parallel.topology import (
    KEYS,
    Layout,
    Sizes,
    layer_ranges,
    make_layout,
    range_words,
    require_fitting,
)

if TYPE_CHECKING:  # the report asks run_data, which asks here
    from paddle_sft.cli.report import Report


def layout_of(arguments: ParallelArguments) -> Layout:
    """
    Raises:
        ArgumentError: the degrees don't share out the ranks that were started.
    """
    degrees = {axis: getattr(arguments, key) for axis, key in KEYS.items()}
    return make_layout(
        degrees,
        sharding_stage(arguments.sharding),
        num_ranks(),
        arguments.sequence_parallel,
        max(1, arguments.virtual_pp_degree),
    )


def start_ranks(arguments: Arguments, read_config: Callable[[], Dict[str, Any]], report: Report) -> Optional[Groups]:
    """Let the ranks find each other; None where there is one.

    Args:
        read_config: gives the model's config.json.

    Raises:
        ArgumentError: a layout that these ranks, or this model, can't have.
        ModelError: the model is not there, on the machine of any rank.
    """
    layout = layout_of(arguments.parallel)
    failure: Optional[PaddleSFTError] = None
    try:
        require_layout(layout, read_config(), arguments.adapter)
    except ModelError as error:  # perhaps on this machine alone: the other ranks have to hear of it
        failure = error
    groups = None if layout.ranks == 1 else start(layout)
    agree(groups, failure)
    if groups is not None:
        report.add("device", "layout", layout.text(), f"{layout.data_ranks} see different rows")
    return groups


def require_same_samples(groups: Optional[Groups], feed: Any) -> None:
    """
    Args:
        feed: of the training samples, or None.

    Raises:
        DataError: the machines have different data files, or cut them into other samples.
    """
    if groups is None or feed is None:
        return
    found = gather_objects(feed.describe(), groups.world)
    other = [rank for rank, one in enumerate(found) if one != found[0]]
    if other:
        keys = [key for key in found[0] if found[other[0]].get(key) != found[0][key]]
        raise DataError(
            f"rank {other[0]} trains on other samples than rank 0 (they differ in {', '.join(keys)}); give all "
            "machines the same data files and the same tokenizer"
        )


def require_layout(layout: Layout, config: Dict[str, Any], adapter: Any) -> None:
    """
    Args:
        adapter: the AdapterArguments.

    Raises:
        ArgumentError: a family, an adapter or sizes that can't be cut that way.
    """
    family, kinds = config["model_type"], _kinds(layout)
    missing = [kind for kind in kinds if kind not in FAMILIES[family].splits]
    if missing:
        able = [name for name, one in FAMILIES.items() if all(kind in one.splits for kind in kinds)]
        raise ArgumentError(
            f"{', '.join(KINDS[kind] for kind in missing)} is not verified for {family}; families it is verified for: "
            f"{', '.join(able)}. Data parallelism and sharding work for every family"
        )
    if not kinds:
        return
    require_fitting(layout, Sizes.of({**FAMILIES[family].defaults(), **config}))
    method = ADAPTERS[adapter.adapter] if adapter.adapter else None
    missing = [] if method is None else [kind for kind in kinds if kind not in method.splits]
    if missing:
        able = [name for name, one in ADAPTERS.items() if all(kind in one.splits for kind in kinds)]
        raise ArgumentError(
            f"adapter {adapter.adapter} does not go with {', '.join(KINDS[kind] for kind in missing)}: "
            f"{method.why_not_split}. Adapters that do: {', '.join(able)}"
        )


KINDS = {
    "tensor": "tensor_parallel_degree",
    "pipeline": "pipeline_parallel_degree",
    "sequence": "sequence_parallel",
    "sep": "sep_parallel_degree",
    "stage3": "sharding stage3",
}
"""What `Family.splits` may name -> the user's key."""


def _kinds(layout: Layout) -> Tuple[str, ...]:
    degrees = {"tensor": layout.tensor, "pipeline": layout.pipeline, "sep": layout.sep}
    kinds = [name for name, degree in degrees.items() if degree > 1]
    kinds += ["sequence"] if layout.sequence_parallel else []
    return tuple(kinds + ["stage3"] if layout.stage == 3 else kinds)


def share_of(groups: Optional[Groups], config: Dict[str, Any]) -> Optional[Share]:
    """What of the model this rank holds; None for all of it."""
    if groups is None or groups.layout.tensor * groups.layout.pipeline == 1:
        return None
    layout, place = groups.layout, groups.place
    ranges: Tuple[Tuple[int, int], ...] = ()
    if layout.pipeline > 1:
        num_layers = Sizes.of({**FAMILIES[config["model_type"]].defaults(), **config}).layers
        ranges = tuple(layer_ranges(num_layers, layout.pipeline, layout.chunks)[place["pipeline"]])
    return Share(
        layout.tensor,
        place["tensor"],
        groups.tensor,
        groups.pipeline,
        layout.sequence_parallel,
        ranges,
        is_first=place["pipeline"] == 0,
        is_last=place["pipeline"] == layout.pipeline - 1,
    )


def sign_base(model: Any, groups: Optional[Groups]) -> None:
    """Put the fingerprint of the whole base where adapters look for it, if this rank holds a share of it."""
    if groups is None or not hasattr(model, "share"):
        return
    linears = find_linears(model)
    here: Dict[int, Mark] = dict(getattr(model, "base_marks", {}))  # of what was quantised, from the whole weight
    for path, inside in spots({path: features(layer) for path, layer in linears.items()}).items():
        weight = None if is_elsewhere(linears[path]) else getattr(linears[path], "weight", None)
        for number, at in inside.items():
            own = at if weight is None or part_of(weight) is None else part_of(weight).find(at)
            if weight is not None and own is not None and number not in here:
                here[number] = Mark(float(weight[own[0], own[1]].astype("float32")))
    found = {number: mark for one in gather_objects(here, groups.model) for number, mark in one.items()}
    model.base_fingerprint = fingerprint(found, schemes_of(model))


def join_heads(model: Any, groups: Optional[Groups]) -> None:
    """Let attention be computed on whole rows where each rank has a part of their tokens."""
    if groups is not None and groups.sep is not None:
        layout, part = model.row_layout, groups.place["sep"]
        layout.exchange, layout.heads_part = HeadExchange(groups.sep), part
        layout.tokens_part = (part, groups.layout.sep)


def describe_share(report: Report, groups: Optional[Groups], model: Any) -> None:
    """Say in the plan which rank holds what. All ranks call it."""
    if groups is None:
        return
    share = getattr(model, "share", None)
    held = sum(parameter.size for parameter in model.parameters())
    what = "every layer"
    if share is not None and share.ranges:
        what = "layers " + range_words(share.ranges)
        what += " and the embedding" * share.is_first + " and the head" * share.is_last
    place = ", ".join(f"{axis} {number}" for axis, number in groups.place.items() if getattr(groups.layout, axis) > 1)
    for rank, line in enumerate(gather_objects(f"{place}: {what}, {held:,} numbers", groups.world)):
        report.add("ranks", f"rank {rank}", line)
