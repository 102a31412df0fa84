"""How much an epoch takes of each source: the numbers that a mix promises, from what is written and how large it is."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.arguments.mixing import SourceMix
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.store import SampleStore


@dataclass(frozen=True)
class SourceSamples:
    """The samples of one source. Shapes: all [n] int64."""

    name: str
    numbers: np.ndarray
    """Their numbers among all samples."""
    lengths: np.ndarray
    num_trained: np.ndarray

    def sizes(self, unit: str) -> np.ndarray:
        """[n] int64: what each sample counts in `unit`, one of arguments.mixing.UNITS."""
        if unit == "samples":
            return np.ones(len(self.numbers), dtype=np.int64)
        return self.lengths if unit == "tokens" else self.num_trained


def sources_of(samples: SampleStore, names: Optional[Sequence[str]] = None) -> List[SourceSamples]:
    """The samples of a store by source; `names` picks some of them."""
    found = []
    for index, name in enumerate(samples.source_names):
        if names is None or name in names:
            numbers = np.flatnonzero(np.asarray(samples.source) == index)
            found.append(SourceSamples(name, numbers, samples.lengths[numbers], samples.num_trained[numbers]))
    return found


@dataclass(frozen=True)
class Quota:
    """What an epoch takes of a source, rounded to whole samples, and at most the caps."""

    unit: str
    amount: Fraction
    """Of `unit`; of a source with a ratio, on average."""
    max_samples: Optional[int] = None
    max_tokens: Optional[int] = None
    ratio: Optional[Fraction] = None
    """Times what the sources without a ratio have really given: so a share is kept, whatever they draw."""

    def __str__(self) -> str:
        """All of it, for the comparison of a resumed run with the one before."""
        caps = {"at most {} samples": self.max_samples, "at most {} tokens": self.max_tokens, "{} x others": self.ratio}
        more = "".join(", " + words.format(value) for words, value in caps.items() if value is not None)
        return f"{self.amount} {self.unit}{more}"


def make_quotas(
    sources: Sequence[SourceSamples], mixes: Mapping[str, SourceMix], unit: str, exhausted: str
) -> List[Quota]:
    """What an epoch takes of each source, in their order. A source that is not in `mixes` is taken once.

    Sources with epochs are fixed, and what they leave of 1 the shares divide among the others: so much is an epoch. A
    source that reaches its cap is fixed, too. When every source has a share, an epoch is the largest that repeats no
    sample (`exhausted` is stop) or the smallest that has every sample (repeat), and a cap cuts its own source alone.

    Raises:
        ArgumentError: a share asks for more than its source has, and `exhausted` is stop; a name without samples.
        DataError: a source has nothing of the unit.
    """
    unknown = sorted(set(mixes) - {source.name for source in sources})
    if unknown:
        raise ArgumentError(f"mixing names {', '.join(unknown)}, which has no training data; leave it out")
    by_name = {source.name: (source, mixes.get(source.name, SourceMix())) for source in sources}
    shares = {name: mix.share for name, (_, mix) in by_name.items() if mix.share is not None}
    totals = {name: int(source.sizes(unit).sum()) for name, (source, _) in by_name.items()}
    for name in shares:
        if not totals[name]:
            raise DataError(f"mixing of {name}: it has no trained tokens, so it can't have a share of them")
    if len(shares) == len(totals):
        sizes = [totals[name] / share for name, share in shares.items()]
        size = min(sizes) if exhausted == "stop" else max(sizes)
        ratios: Dict[str, Fraction] = {}
    else:
        size, ratios = _share_out(by_name, shares, totals, unit)
    quotas = []
    for name, (source, mix) in by_name.items():
        caps = (mix.max_samples, mix.max_tokens)
        if mix.share is None:
            quotas.append(Quota("samples", (mix.epochs or 1) * Fraction(len(source.numbers)), *caps))
            continue
        amount = min(mix.share * size, _cap(source, mix, unit))
        if exhausted == "stop" and amount > totals[name]:
            raise ArgumentError(
                f"mixing of {name}: share {float(mix.share):g} is {float(amount):,.0f} {unit} an epoch, and it has "
                f'{totals[name]:,}; lower the share, or let it repeat with "mixing_exhausted": "repeat"'
            )
        if exhausted == "stop" and name in ratios:  # an epoch whose fixed sources draw long samples repeats none
            caps = (min(caps[0] or len(source.numbers), len(source.numbers)), caps[1])
        quotas.append(Quota(unit, mix.share * size, *caps, ratios.get(name)))
    return quotas


def _share_out(
    by_name: Mapping[str, Tuple[SourceSamples, SourceMix]],
    shares: Mapping[str, Fraction],
    totals: Mapping[str, int],
    unit: str,
) -> Tuple[Fraction, Dict[str, Fraction]]:
    """(size of an epoch, ratio of each source that is below its cap), where some sources have no share.

    Sources become fixed at their caps one by one, the one furthest beyond its cap first: each makes the epoch smaller.
    """
    caps = {name: _cap(source, mix, unit) for name, (source, mix) in by_name.items()}
    free = dict(shares)
    fixed = sum(
        min((mix.epochs or 1) * totals[name], caps[name]) for name, (_, mix) in by_name.items() if name not in shares
    )
    while True:
        size = Fraction(fixed) / (1 - sum(free.values()))
        beyond = {name: caps[name] / share for name, share in free.items() if caps[name] < share * size}
        if not beyond:
            left = 1 - sum(free.values())
            return size, {name: share / left for name, share in free.items()}
        first = min(beyond, key=beyond.__getitem__)
        fixed += caps[first]
        del free[first]


def _cap(source: SourceSamples, mix: SourceMix, unit: str) -> Fraction:
    """The caps in `unit`, at the source's mean size of a sample; more than the source can give without them."""
    total = Fraction(int(source.sizes(unit).sum()))
    caps = [total * 10**12]
    if mix.max_samples is not None:
        caps.append(total * mix.max_samples / len(source.numbers))
    if mix.max_tokens is not None:
        caps.append(total * mix.max_tokens / int(source.lengths.sum()))
    return min(caps)
