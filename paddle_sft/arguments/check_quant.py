"""What the keys of a quantised base say about each other and about the rest of a run."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Iterator, List, Mapping

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.quant import ALGORITHMS
from paddle_sft.arguments.values import show

_OTHER_NAMES = {
    **dict.fromkeys(("int8", "wint8", "8bit", "8", "bitsandbytes8", "llm.int8", "a8w8"), "weight_only_int8"),
    **dict.fromkeys(("int4", "wint4"), "weight_only_int4"),
    **dict.fromkeys(("4bit", "4", "bnb", "bitsandbytes", "normalfloat4"), "nf4"),
}
"""What people write -> what is nearest to it here."""


def algorithm_problem(algorithms: Any) -> str:
    """What is wrong with a value of weight_quantize_algo; empty text if nothing is."""
    names: List[Any] = [algorithms] if isinstance(algorithms, str) else list(algorithms)
    for name in names:
        if name not in ALGORITHMS:
            written = str(name).lower()
            nearest = get_close_matches(written, ALGORITHMS, n=1)
            meant = _OTHER_NAMES.get(written) or (nearest[0] if nearest else "")
            hint = f", did you mean {meant}?" if meant else ";"
            return f"weight_quantize_algo is {show(name)}{hint} allowed: {', '.join(ALGORITHMS)}"
    if isinstance(algorithms, Mapping):
        wrong = [name for name, layers in algorithms.items() if not _are_names(layers)]
        if wrong or not algorithms:
            return (
                "weight_quantize_algo as an object gives each algorithm a list of layers, such as "
                '{"weight_only_int8": ["down_proj"], "nf4": [".*self_attn.*"]}' + (f"; see {wrong[0]}" if wrong else "")
            )
    return ""


def _are_names(layers: Any) -> bool:
    return isinstance(layers, list) and bool(layers) and all(isinstance(one, str) and one for one in layers)


def check_quant(draft: Draft) -> Iterator[Problem]:
    """A quantised base is frozen, and made of trained weights (`check_parallel` says that it is not split)."""
    yield from _check_aware(draft)
    algorithms = draft["weight_quantize_algo"]
    key = "weight_quantize_algo"
    if algorithms is None:
        for name, default in (("weight_blocksize", None), ("weight_double_quant", False)):
            if name in draft.given and draft[name] != default:
                draft.note(name, f"not used: {key} is off")
        return
    problem = algorithm_problem(algorithms)
    if problem:
        yield (key,), problem
    if "weight_double_quant_block_size" in draft.given and not draft["weight_double_quant"]:
        draft.note("weight_double_quant_block_size", "not used: weight_double_quant is off")
    if draft["do_train"] and draft["adapter"] is None:
        yield (
            (key, "lora"),
            f"{key} is {show(algorithms)}, which freezes the base, and without an adapter its weights would have to "
            f'change; add "lora": true or another adapter, or leave {key} out',
        )
    if draft["config_name"]:
        yield (key, "config_name"), f"{key} quantises trained weights, and config_name makes random ones; leave one out"


_SPLITTING = ("tensor_parallel_degree", "pipeline_parallel_degree", "sep_parallel_degree")


def _check_aware(draft: Draft) -> Iterator[Problem]:
    """Quantisation-aware training changes all weights, in one process's whole model."""
    if draft["qat"] is None:
        return
    said = f"qat is {draft['qat']}, which trains all weights as floats"
    for name in ("adapter", "weight_quantize_algo"):
        if draft[name] is not None:
            yield ("qat", name), f"{said}, and {name} is {show(draft[name])}, which freezes them; leave one of them out"
    for name in _SPLITTING:
        if draft[name] > 1:
            yield ("qat", name), f"{said} whole on every device, and {name} is {draft[name]}; leave one of them out"
