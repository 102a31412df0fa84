"""Which layouts a run could have on given devices, what each needs and costs, and what would help where none fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from paddle_sft.cli.plan_case import Case
from paddle_sft.cli.plan_devices import Devices
from paddle_sft.core.errors import ArgumentError
from paddle_sft.parallel.memory import Need, predict
from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.topology import CHUNKS_KEY, KEYS, Layout
from paddle_sft.parallel.traffic import Cost, cost_of

SAME = 1.02
"""Costs that differ by less are the same: the assumed speeds are not known better."""


@dataclass(frozen=True)
class Option:
    """A layout and a recipe, with what they take."""

    layout: Layout
    recipe: Recipe
    need: Need
    cost: Cost
    usable: float
    """Bytes that a device has for tensors."""

    @property
    def fits(self) -> bool:
        return self.need.peak.total <= self.usable

    @property
    def room(self) -> float:
        """Bytes that are left; below 0 where it does not fit."""
        return self.usable - self.need.peak.total


@dataclass(frozen=True)
class Search:
    """All that could be run."""

    case: Case
    devices: Devices
    rows_per_step: int
    written: Optional[Option]
    """What the file says; None where it would be refused."""
    refusal: str
    options: List[Option]
    """Best first: those that fit, cheapest first; then the others, the smallest first."""

    @property
    def fitting(self) -> List[Option]:
        return [option for option in self.options if option.fits]

    def keys_to_write(self, option: Option) -> Dict[str, Any]:
        """Those of an option's keys that differ from what the argument file says."""
        said = self.case.values()
        said.update({key: max(1, said[key]) for key in (*KEYS.values(), CHUNKS_KEY) if key != KEYS["sharding"]})
        return {
            key: value
            for key, value in keys_of(option.layout, option.recipe).items()
            if value != (said[key] or type(value)())
        }


def keys_of(layout: Layout, recipe: Recipe) -> Dict[str, Any]:
    """All keys of an argument file that say it, as they would stand there."""
    return {
        **{KEYS[axis]: getattr(layout, axis) for axis in ("tensor", "pipeline", "sep")},
        CHUNKS_KEY: layout.chunks,
        "sequence_parallel": layout.sequence_parallel,
        "sharding": f"stage{layout.stage}{' offload' * recipe.offloads}" if layout.stage else "",
        "sharding_parallel_degree": layout.sharding if layout.stage else -1,
        "recompute": bool(recipe.recompute),
        "recompute_granularity": recipe.recompute or "full",
        "per_device_train_batch_size": recipe.rows,
        "gradient_accumulation_steps": recipe.accumulation,
    }


def search(case: Case, devices: Devices) -> Search:
    """Try every layout that the suite takes, with the rows of a step that the file says."""
    recipe, written, refusal = case.recipe(), None, ""
    try:
        layout = case.layout(devices.number)
        case.require(layout, {})
        written = _option(case, layout, recipe, devices)
        data_ranks = layout.data_ranks
    except ArgumentError as error:
        refusal, data_ranks = str(error), devices.number
    rows = recipe.rows * recipe.accumulation * data_ranks
    found = [_option(case, layout, one, devices) for layout, one in _candidates(case, devices, rows)]
    return Search(case, devices, rows, written, refusal, ranked(found))


def ranked(options: List[Option]) -> List[Option]:
    """Those that fit first: the cheapest, and of costs within SAME of each other the one that needs least; then the
    others, the smallest first."""
    fitting = [one for one in options if one.fits]
    least = min((one.cost.seconds for one in fitting), default=1.0)
    steps = {id(one): int(log(one.cost.seconds / least) / log(SAME)) for one in fitting}
    fitting.sort(key=lambda one: (steps[id(one)], one.need.peak.total))
    others = [one for one in options if not one.fits]
    return fitting + sorted(others, key=lambda one: one.need.peak.total)


def best_of_each(options: List[Option]) -> List[Option]:
    """The first option of each layout."""
    found: Dict[Layout, Option] = {}
    for one in options:
        found.setdefault(one.layout, one)
    return list(found.values())


def _option(case: Case, layout: Layout, recipe: Recipe, devices: Devices) -> Option:
    need, cost = predict(case.shape, recipe, layout), cost_of(case.shape, recipe, layout, devices.per_node)
    return Option(layout, recipe, need, cost, devices.usable)


def _candidates(case: Case, devices: Devices, rows_per_step: int) -> Iterator[Tuple[Layout, Recipe]]:
    written = case.recipe()
    for layout in _layouts(devices, case.chunks):
        for rows in sorted({1, written.rows}):
            if rows_per_step % (rows * layout.data_ranks):
                continue
            recipe = replace(written, rows=rows, accumulation=rows_per_step // (rows * layout.data_ranks))
            recipe = replace(recipe, offloads=written.offloads and layout.stage > 0)
            for again in ("", "full_attn", "full"):
                one = replace(recipe, recompute=again)
                is_twice = layout.stage == 3 and again  # it computes every layer again in any case
                if not is_twice and _is_taken(case, layout, one):
                    yield layout, one


def _layouts(devices: Devices, chunks: int) -> Iterator[Layout]:
    """Every way to share the ranks out; tensor parallelism stays inside a node, with its activations split. Pipelines
    with one part of the stack a stage, and with as many as the file says."""
    number = devices.number
    for tensor in _divisors(devices.per_node):
        for pipeline in _divisors(number // tensor):
            for sep in _divisors(number // (tensor * pipeline)):
                data = number // (tensor * pipeline * sep)
                yield from _of_model(Layout(data, pipeline, 1, sep, tensor, 0, tensor > 1), chunks)


def _of_model(layout: Layout, chunks: int) -> Iterator[Layout]:
    """The ways of a model that is split like this: with sharding of each stage among its copies, or without."""
    for stage in (0, 1, 2, 3) if layout.data > 1 else (0,):
        one = replace(layout, data=1, sharding=layout.data, stage=stage) if stage else layout
        yield one
        if layout.pipeline > 1 and chunks > 1:
            yield replace(one, chunks=chunks)


def _divisors(number: int) -> List[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _is_taken(case: Case, layout: Layout, recipe: Recipe) -> bool:
    try:
        case.require(layout, keys_of(layout, recipe))
    except ArgumentError:
        return False
    return True


def helps(case_of: Callable[[List[str]], Case], case: Case, devices: Devices) -> Iterator[Tuple[str, Option]]:
    """Single changes with which something fits, each with its best option: of shorter rows the longest, of more devices
    the fewest. A change that the suite refuses is left out.

    Args:
        case_of: the run with further words on its command line.
    """
    for kind in (_shorter(case), _adapted(case), _coded(case)):
        for words in kind:
            found = _fitting(case_of, words, devices)
            if found:
                yield " ".join(words), found[0]
                break
    for times in (2, 4, 8, 16):
        found = search(case, replace(devices, nodes=devices.nodes * times)).fitting
        if found:
            yield f"{times} times the devices ({devices.number * times})", found[0]
            return


def _fitting(case_of: Callable[[List[str]], Case], words: List[str], devices: Devices) -> List[Option]:
    try:
        return search(case_of(words), devices).fitting
    except ArgumentError:
        return []


def _shorter(case: Case) -> List[List[str]]:
    """Rows of a half, a quarter, ... of the tokens."""
    found, length = [], case.recipe().length // 2
    while length >= 256:
        sources = ["--src_length", str(length // 2)] if "src_length" in case.arguments.given else []
        found.append(["--max_length", str(length), *sources])
        length //= 2
    return found


def _adapted(case: Case) -> List[List[str]]:
    return [] if case.arguments.adapter.adapter else [["--lora", "true"]]


def _coded(case: Case) -> List[List[str]]:
    """A base in 4 bits."""
    if case.arguments.quant.weight_quantize_algo:
        return []
    lora = [] if case.arguments.adapter.adapter else ["--lora", "true"]
    return [[*lora, "--weight_quantize_algo", "nf4", "--weight_double_quant", "true"]]
