"""A plan as people read it, and as programs do."""

from __future__ import annotations

import json
import textwrap
from typing import Any, Dict, List, Sequence, Tuple

from paddle_sft.cli.plan_case import Case
from paddle_sft.cli.plan_search import Option, Search, best_of_each, keys_of
from paddle_sft.parallel.memory import PARTS
from paddle_sft.parallel.topology import Layout, layer_ranges, range_words
from paddle_sft.parallel.traffic import BETWEEN, INSIDE, OPERATIONS_A_SECOND

WIDTH = 110
_GB, _MB = 1e9, 1e6
_WORDS = {
    "weights": "parameters at rest",
    "gradients": "gradients that stay between steps",
    "optimizer": "moments, and float32 copies of half-precision weights",
    "activations": "what waits for the backward pass",
    "head": "hidden states and logits of the loss, gradient of the head",
    "buffers": "gradients on their way, weights put together, rotary tables",
}
Changes = Sequence[Tuple[str, Option]]


def report_lines(found: Search, changes: Changes, top: int) -> List[str]:
    """The whole plan."""
    lines = _facts(found)
    shown = best_of_each(found.fitting or found.options)[: max(1, top)]
    if not shown:
        return [*lines, "", "No layout of these devices is taken by the suite for this run."]
    title = "Best layouts" if found.fitting else "Nothing fits. The layouts that come nearest"
    lines += ["", title, *_table(shown), "", *_cost_words(found), "", *_detail(shown[0], found.case.shape.layers)]
    if found.fitting:
        lines += ["", *_what_to_write(found, shown[0])]
    else:
        lines += ["", *_why_not(found, shown[0], changes)]
    return lines


def _facts(found: Search) -> List[str]:
    case, devices, recipe = found.case, found.devices, found.case.recipe()
    shape, trained = case.shape, case.trained
    kind = f"LoRA of rank {recipe.lora_rank} on {len(recipe.targets)} layers" if recipe.lora_rank else "all weights"
    stored = sorted({scheme.describe() for scheme in recipe.schemes.values()})
    numbers = {2: "half precision", 4: "float32"}[recipe.weight_bytes]
    usable = "no memory given: what each layout needs"
    if found.devices.memory != float("inf"):
        usable = f"{devices.usable / _GB:.1f} GB of each for tensors: {devices.reserve:.0%} reserve and "
        usable += f"{devices.context / _GB:g} GB context are left out"
    step = f"{found.rows_per_step:,} rows of {recipe.length:,} tokens, all of them trained: the most there can be"
    lines = [
        f"model     {case.place}: {shape.parameters / _GB:.2f} billion numbers, {shape.layers} layers of "
        f"{shape.hidden:,}",
        f"training  {kind}: {trained / _MB:,.1f} million numbers in {numbers}; {recipe.optimizer}",
        *([f"base      {'; '.join(stored)}"] if stored else []),
        f"devices   {devices.text()}; {usable}",
        f"step      {step}",
    ]
    if found.written is None:
        lines += textwrap.wrap(f"as it is  refused: {found.refusal}", WIDTH, subsequent_indent=" " * 10)
    else:
        verdict = f"needs {found.written.need.peak.total / _GB:.1f} GB a device"
        if found.devices.memory != float("inf"):
            room = found.written.room / _GB
            verdict += f", {'fits, with' if room >= 0 else 'does not fit:'} {abs(room):.1f} GB "
            verdict += "to spare" if room >= 0 else "too much"
        lines.append(f"as it is  {layout_words(found.written.layout)}, {_step_words(found.written)}: {verdict}")
        lines += _stage_lines(found.written.layout, shape.layers, "stages")
    return lines


def _stage_lines(layout: Layout, layers: int, title: str) -> List[str]:
    """Which layers each stage of a pipeline has; nothing without one."""
    if layout.pipeline == 1:
        return []
    ranges = layer_ranges(layers, layout.pipeline, layout.chunks)
    text = "; ".join(f"{stage}: {range_words(one)}" for stage, one in enumerate(ranges))
    return textwrap.wrap(f"{title:<10}layers of {text}", WIDTH, subsequent_indent=" " * 10)


def layout_words(layout: Layout) -> str:
    """Such as 8 tensor (sequence) x 2 pipeline (2 virtual) x 4 stage1."""
    pipeline = "pipeline" + (f" ({layout.chunks} virtual)" if layout.chunks > 1 else "")
    axes = (("tensor", layout.tensor), (pipeline, layout.pipeline), ("sep", layout.sep), ("data", layout.data))
    words = [f"{size} {name}" for name, size in axes if size > 1]
    if layout.sequence_parallel:
        words[0] += " (sequence)"
    if layout.sharding > 1:
        words.append(f"{layout.sharding} stage{layout.stage}")
    return " x ".join(words) or "1 rank"


def _step_words(option: Option) -> str:
    recipe = option.recipe
    return f"{recipe.rows} x {recipe.accumulation}" + (f", recompute {recipe.recompute}" if recipe.recompute else "")


def _table(shown: Sequence[Option]) -> List[str]:
    width = max(len("layout"), *(len(layout_words(one.layout)) for one in shown))
    best = min(one.cost.seconds for one in shown)
    head = f"  {'layout':<{width}}  {'rows x accum':>12}  {'recompute':>9}  {'GB':>6}  {'room':>6}  {'MB/token':>8}"
    lines = [f"{head}  {'bubble':>6}  {'cost':>5}"]
    for one in shown:
        room = "" if one.usable == float("inf") else f"{one.room / _GB:.1f}"
        again = "full" if one.layout.stage == 3 else one.recipe.recompute or "none"
        lines.append(
            f"  {layout_words(one.layout):<{width}}  {f'{one.recipe.rows} x {one.recipe.accumulation}':>12}  {again:>9}"
            f"  {one.need.peak.total / _GB:>6.1f}  {room:>6}  {one.cost.sent_per_token / _MB:>8.2f}"
            f"  {one.cost.bubble:>6.0%}  {one.cost.seconds / best:>5.2f}"
        )
    return lines


def _cost_words(found: Search) -> List[str]:
    text = (
        f"GB: the peak of the rank that needs most. MB/token: what a rank sends in a step, by the tokens of the step. "
        f"Cost: computing at {OPERATIONS_A_SECOND / 1e12:g} TFLOP/s with the bubble of the pipeline, then sending at "
        f"{INSIDE / _GB:g} GB/s inside a node and {BETWEEN / _GB:g} GB/s between nodes, nothing overlapped, relative "
        "to the cheapest that is listed. "
    )
    ranked = "Cheapest first, within 2 % the smallest." if found.fitting else "Smallest first."
    return textwrap.wrap(text + ranked, WIDTH)


def _detail(option: Option, layers: int) -> List[str]:
    peak, where = option.need.peak, ""
    if option.layout.pipeline > 1:
        where = f" on stage {option.need.stage} of the pipeline"
    lines = [f"Of the first: {peak.total / _GB:.2f} GB in the {peak.name}{where}"]
    lines += [f"  {name:<12}{peak.parts[name] / _GB:>8.2f} GB  {_WORDS[name]}" for name in PARTS]
    sent = {axis: size for axis, size in option.cost.sent.items() if size}
    if sent:
        told = ", ".join(f"{axis} {size / _GB:.2f} GB" for axis, size in sent.items())
        lines.append(f"  {'sent a step':<12}{told}")
    return lines + _stage_lines(option.layout, layers, "  stages")


def _what_to_write(found: Search, option: Option) -> List[str]:
    keys = found.keys_to_write(option)
    if not keys:
        return ["The first is what the file says."]
    return ["To run the first, write", textwrap.indent(json.dumps(keys, indent=2), "  ")]


def _why_not(found: Search, nearest: Option, changes: Changes) -> List[str]:
    peak = nearest.need.peak
    largest = max(peak.parts, key=peak.parts.__getitem__)
    lines = textwrap.wrap(
        f"The nearest needs {peak.total / _GB:.1f} GB of {nearest.usable / _GB:.1f} GB: {-nearest.room / _GB:.1f} GB "
        f"too much. Its largest part is {largest}, {peak.parts[largest] / _GB:.1f} GB.",
        WIDTH,
    )
    if not changes:
        return [*lines, "No single change that was tried fits: shorter rows, lora, nf4, up to 16 times the devices."]
    lines.append("What would fit:")
    for words, one in changes:
        how = f"{layout_words(one.layout)}, {_step_words(one)}: {one.need.peak.total / _GB:.1f} GB"
        lines.append(f"  {words}")
        lines.append(f"      {how}")
    return lines


def as_json(found: Search, changes: Changes, top: int) -> Dict[str, Any]:
    """The same as numbers: bytes, and seconds that only mean something beside one another."""
    devices, case = found.devices, found.case
    known = devices.memory != float("inf")
    return {
        "model": {"place": case.place, "parameters": case.shape.parameters, "trained": case.trained},
        "devices": {
            "nodes": devices.nodes,
            "per_node": devices.per_node,
            "memory": devices.memory if known else None,
            "usable": devices.usable if known else None,
        },
        "rows_per_step": found.rows_per_step,
        "written": None if found.written is None else _option(found.written, case),
        "refusal": found.refusal,
        "fits": bool(found.fitting),
        "layouts": [
            {**_option(one, case), "keys": found.keys_to_write(one)}
            for one in best_of_each(found.fitting or found.options)[: max(1, top)]
        ],
        "changes": [{"change": words, **_option(one, case)} for words, one in changes],
    }


def _option(one: Option, case: Case) -> Dict[str, Any]:
    return {
        "layout": layout_words(one.layout),
        "stages": layer_ranges(case.shape.layers, one.layout.pipeline, one.layout.chunks),
        "keys": keys_of(one.layout, one.recipe),
        "fits": one.fits,
        "peak": {"bytes": one.need.peak.total, "moment": one.need.peak.name, "parts": one.need.peak.parts},
        "moments": {moment.name: moment.total for moment in one.need.moments},
        "sent": one.cost.sent,
        "bubble": one.cost.bubble,
        "cost": one.cost.seconds,
    }
