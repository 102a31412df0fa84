"""How much of each source an epoch takes, and which mix follows which: `mixing` and `data_stages` as they are written.

This module only reads; `data.mixing` knows how large the sources are and makes quotas of it. docs/mixing.md explains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from paddle_sft.arguments.values import show

UNITS = ("samples", "tokens", "trained_tokens")
"""What a share may be a share of."""

WHEN_EXHAUSTED = ("stop", "repeat")
"""What happens when a share asks for more of a source than there is."""

Mixing = Union[Mapping[str, Any], Sequence[float], None]


@dataclass(frozen=True)
class SourceMix:
    """What an epoch takes of one source. Exact fractions, so that 0.1 is a tenth."""

    epochs: Optional[Fraction] = None
    """Times the source, or"""
    share: Optional[Fraction] = None
    """this part of the whole epoch; without either, the source once."""
    max_samples: Optional[int] = None
    max_tokens: Optional[int] = None
    """At most so much of it in an epoch."""


@dataclass(frozen=True)
class StageSpec:
    """One entry of `data_stages`: what it mixes, and its length, given in one of three ways."""

    name: str
    dataset: Optional[Tuple[str, ...]] = None
    """Names of the sources in it; None: all of the run's."""
    mixing: Mixing = None
    epochs: Optional[Fraction] = None
    steps: Optional[int] = None
    tokens: Optional[int] = None


@dataclass
class Read:
    """A result and what was wrong with what was written."""

    value: Any
    problems: List[str] = field(default_factory=list)


def names_of(dataset: Union[str, Sequence[str], Mapping[str, Any], None]) -> Optional[Tuple[str, ...]]:
    """The names in `dataset`: a text with commas, a list, or an object by name. None when there are none."""
    if not dataset:
        return None
    parts = dataset.split(",") if isinstance(dataset, str) else list(dataset)
    return tuple(part.strip() for part in parts if part.strip())


def read_mixing(given: Mixing, names: Optional[Sequence[str]]) -> Read:
    """{name: SourceMix} of `mixing`, for the sources called `names` in their order.

    A list holds the share of each source, as LLaMA-Factory's interleave_probs does.
    """
    if given is None:
        return Read({})
    if names is None:
        return Read({}, ['needs named sources; name them with "dataset", as {"law": "law.json", "chat": "chat.json"}'])
    if not isinstance(given, Mapping):
        return _read_shares(given, names)
    read = Read({})
    for name, entry in given.items():
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there: {', '.join(names)}"
            read.problems.append(f"names {name!r}, which dataset does not{hint}")
            continue
        one = _read_source(name, entry)
        read.value[name] = one.value
        read.problems += one.problems
    shares = {name: mix.share for name, mix in read.value.items() if mix.share is not None}
    if not read.problems and shares:
        read.problems += _check_shares(shares, len(shares) == len(names))
    return read


def _read_shares(given: Sequence[float], names: Sequence[str]) -> Read:
    if len(given) != len(names):
        return Read({}, [f"has {len(given)} shares and dataset has {len(names)} names; write one share for each"])
    shares = {name: Fraction(str(value)) for name, value in zip(names, given)}
    wrong = [f"{name}: share is {float(share):g}; a number above 0 and below 1 is needed"
             for name, share in shares.items() if not 0 < share < 1]  # fmt: skip
    problems = wrong or _check_shares(shares, True)
    return Read({name: SourceMix(share=share) for name, share in shares.items()}, problems)


def _check_shares(shares: Mapping[str, Fraction], is_whole: bool) -> List[str]:
    total = sum(shares.values())
    if is_whole and total != 1:
        return [f"has shares that add up to {float(total):g}; as every source has one, they must add up to 1"]
    if not is_whole and total >= 1:
        return [f"has shares that add up to {float(total):g}, which leaves nothing to the other sources; lower them"]
    return []


def _read_source(name: str, entry: Any) -> Read:
    allowed = [one.name for one in fields(SourceMix)]
    if not isinstance(entry, Mapping):
        return Read(SourceMix(), [f'{name} is {show(entry)}; write {{"epochs": 2}} or {{"share": 0.3}}'])
    problems = _unknown_keys(name, entry, allowed)
    if problems:
        return Read(SourceMix(), problems)
    mix: Dict[str, Any] = {}
    for key, value in entry.items():
        is_whole = key in ("max_samples", "max_tokens")
        if not _is_positive(value, is_whole):
            kind = "a whole number above 0" if is_whole else "a number above 0"
            problems.append(f"{name}: {key} is {show(value)}; {kind} is needed")
            continue
        mix[key] = value if is_whole else Fraction(str(value))
    if "epochs" in mix and "share" in mix:
        problems.append(f"{name} has epochs and share; keep one")
    if mix.get("share", 0) >= 1:
        problems.append(f"{name}: share is {float(mix['share']):g}; a number below 1 is needed")
    return Read(SourceMix(**mix), problems)


_LENGTHS = ("epochs", "steps", "tokens")


def read_stages(given: Optional[Sequence[Any]], names: Optional[Sequence[str]]) -> Read:
    """[StageSpec] of `data_stages`, for a run whose sources are called `names`."""
    read = Read([])
    if given is None:
        return read
    if not given:
        return Read([], ["is empty; write at least one stage, or leave it out"])
    for number, entry in enumerate(given, start=1):
        one = _read_stage(entry, number, names)
        read.value.append(one.value)
        read.problems += one.problems
    titles = [stage.name for stage in read.value]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice and not read.problems:
        read.problems.append(f"has the name {', '.join(twice)} twice; each stage needs its own")
    return read


def _read_stage(entry: Any, number: int, names: Optional[Sequence[str]]) -> Read:
    where = f"stage {number}"
    allowed = [one.name for one in fields(StageSpec)]
    if not isinstance(entry, Mapping):
        return Read(StageSpec(where), [f'{where} is {show(entry)}; write {{"dataset": ..., "epochs": 1}}'])
    problems = _unknown_keys(where, entry, allowed)
    if problems:
        return Read(StageSpec(where), problems)
    found: Dict[str, Any] = {"name": where}
    if "name" in entry:
        found["name"] = entry["name"]
        if not isinstance(entry["name"], str) or not entry["name"]:
            problems.append(f"{where}: name is {show(entry['name'])}, text is needed")
    lengths = [key for key in _LENGTHS if entry.get(key) is not None]
    if len(lengths) != 1:
        said = f"has {' and '.join(lengths)}" if lengths else "has no length"
        problems.append(f"{where} {said}; give one of epochs, steps, tokens")
    for key in lengths:
        if not _is_positive(entry[key], key != "epochs"):
            kind = "a number above 0" if key == "epochs" else "a whole number above 0"
            problems.append(f"{where}: {key} is {show(entry[key])}; {kind} is needed")
        else:
            found[key] = Fraction(str(entry[key])) if key == "epochs" else entry[key]
    chosen, more = _names_of_stage(entry.get("dataset"), where, names)
    problems += more
    found["dataset"], found["mixing"] = chosen, entry.get("mixing")
    if not more:
        mixing = entry.get("mixing")
        if mixing is not None and not isinstance(mixing, (Mapping, list)):
            problems.append(f"{where}: mixing is {show(mixing)}; an object by name is needed")
        else:
            problems += [f"{where}: mixing {problem}" for problem in read_mixing(mixing, chosen or names).problems]
    return Read(StageSpec(**found), problems)


def _names_of_stage(
    given: Any, where: str, names: Optional[Sequence[str]]
) -> Tuple[Optional[Tuple[str, ...]], List[str]]:
    if given is None:
        return None, []
    if not isinstance(given, (str, list)) or not all(isinstance(name, str) for name in given):
        return None, [f"{where}: dataset is {show(given)}; names with commas between them, or a list, are needed"]
    chosen = names_of(given) or ()
    unknown = [name for name in chosen if name not in (names or ())]
    if unknown or not chosen:
        there = ", ".join(names or ()) or "none, for dataset names no sources"
        return None, [f"{where}: dataset names {', '.join(unknown) or 'nothing'}; sources of the run: {there}"]
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    return chosen, [f"{where}: dataset names {', '.join(twice)} twice; use mixing with epochs"] if twice else []


def _unknown_keys(where: str, entry: Mapping[str, Any], allowed: Sequence[str]) -> List[str]:
    problems = []
    for key in entry:
        if key not in allowed:
            near = get_close_matches(key, allowed, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            problems.append(f"{where} has an unknown key {key!r}{hint} allowed: {', '.join(allowed)}")
    return problems


def _is_positive(value: Any, is_whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        return False
    return math.isfinite(value) and value > 0
