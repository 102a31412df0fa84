"""The data of a run as the trainer takes it: a feed of training steps, and dev sets."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from paddle_sft.arguments.check_parallel import too_few_to_interleave
from paddle_sft.arguments.load import Arguments
from paddle_sft.arguments.mixing import Mixing, SourceMix, StageSpec, names_of, read_mixing, read_stages
from paddle_sft.arguments.train import TrainArguments
from paddle_sft.cli.run_parallel import layout_of
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.records import Sample
from paddle_sft.data.mixing import Mix, mix_table
from paddle_sft.data.quotas import make_quotas, sources_of
from paddle_sft.data.sources import FoundSource
from paddle_sft.data.store import SampleStore
from paddle_sft.data.stream_mix import Stream, StreamMix
from paddle_sft.packing.certificate import certify
from paddle_sft.parallel.interleave import fewest_micro_batches
from paddle_sft.train.evaluate import DevSets
from paddle_sft.train.feed import FeedSettings, MapFeed, RunStage
from paddle_sft.train.plan import StepShape
from paddle_sft.train.stream_feed import StreamFeed, StreamStage

Weights = Mapping[str, SourceMix]


def make_feed(
    arguments: Arguments, samples: SampleStore, weights: Optional[Weights] = None, before_sample: int = 0
) -> MapFeed:
    """The steps of a run over samples that are there. `weights` hold for sources that `mixing` does not name.

    Raises:
        ArgumentError: a mix that its sources can't give, or max_steps beyond the end of the stages.
    """
    data = arguments.data
    names = names_of(data.dataset)
    specs = read_stages(data.data_stages, names).value or [_only_stage(arguments)]
    stages = [
        RunStage(
            _make_mix(arguments, samples, spec, number, weights or {}),
            None if spec.epochs is None else float(spec.epochs),
            spec.steps,
            spec.tokens,
            spec.name if data.data_stages else "",
        )
        for number, spec in enumerate(specs)
    ]
    return MapFeed(samples, stages, feed_settings(arguments, before_sample))


def make_stream_feed(arguments: Arguments, stream: Stream, weights: Weights, before_sample: int = 0) -> StreamFeed:
    """The steps of a run over samples that are read while it trains.

    Raises:
        ArgumentError: weights of the registry, which need to know how large a source is; max_steps beyond the stages.
    """
    data, settings = arguments.data, feed_settings(arguments, before_sample)
    if weights and data.mixing is None:
        raise ArgumentError(
            f"the registry gives a weight to {', '.join(weights)}, and lazy does not know how large a source is; give "
            "every source a share in mixing, or set weight to 1"
        )
    names = names_of(data.dataset)
    specs = read_stages(data.data_stages, names).value
    if specs:
        end = sum(spec.steps for spec in specs)
        if settings.max_steps > end:
            raise ArgumentError(f"max_steps is {settings.max_steps}, and data_stages end after {end}; leave it out")
        settings = replace(settings, max_steps=settings.max_steps if settings.max_steps > 0 else end)
    stages = [
        StreamStage(_stream_mix(arguments, stream, spec, names), spec.steps, spec.name)
        for spec in specs or [StageSpec("", None, data.mixing)]
    ]
    return StreamFeed(stream, stages, settings)


def _stream_mix(arguments: Arguments, stream: Stream, spec: StageSpec, names: Optional[Sequence[str]]) -> StreamMix:
    data, chosen = arguments.data, spec.dataset or stream.source_names
    missing = [name for name in chosen if name not in stream.source_names]
    if missing:
        raise ArgumentError(f"{', '.join(missing)} has no training data; leave it out of dataset")
    mixes = read_mixing(spec.mixing, spec.dataset or names).value
    shares = [mixes[name].share for name in chosen] if mixes else None
    sources = [stream.source_names.index(name) for name in chosen]
    return StreamMix(stream, sources, shares, data.mixing_unit, data.mixing_exhausted == "repeat")


def feed_settings(arguments: Arguments, before_sample: int = 0) -> FeedSettings:
    """How the samples of a run become steps.

    Args:
        before_sample: tokens that the model puts before every sample, which max_length doesn't count.

    Raises:
        ArgumentError: global_batch_size can't be cut into micro-batches, or makes too few of them for the pipeline.
    """
    data, train = arguments.data, arguments.train
    drop_last = bool(arguments.upstream.get("dataloader_drop_last", False))
    layout = layout_of(arguments.parallel)
    ranks, micro_batches = layout.data_ranks, accumulation(train, layout.data_ranks)
    if micro_batches < fewest_micro_batches(layout):
        given = f"global_batch_size {train.global_batch_size} makes {micro_batches}; lower per_device_train_batch_size"
        raise ArgumentError(too_few_to_interleave(layout.chunks, layout.pipeline, given))
    shape = StepShape(train.per_device_train_batch_size, micro_batches, ranks, drop_last)
    capacity = data.max_length + before_sample
    return FeedSettings(shape, train.seed, train.shuffle, data.packing, capacity, before_sample, train.max_steps)


def accumulation(train: TrainArguments, ranks: int) -> int:
    """Forward passes of an optimizer step on each of so many ranks that see different rows.

    Raises:
        ArgumentError: global_batch_size can't be cut into them.
    """
    whole, rows = train.global_batch_size, train.per_device_train_batch_size
    if whole is None:
        return train.gradient_accumulation_steps
    if train.gradient_accumulation_steps > 1:
        raise ArgumentError(
            f"gradient_accumulation_steps {train.gradient_accumulation_steps} and global_batch_size {whole} were both "
            "given; the first follows from the second: leave it out"
        )
    if whole % (rows * ranks):
        fitting = [size for size in range(rows, 0, -1) if whole % (size * ranks) == 0]
        advice = f"per_device_train_batch_size {fitting[0]} does" if fitting else f"choose a multiple of {ranks}"
        raise ArgumentError(
            f"global_batch_size {whole} is no multiple of {rows * ranks} (per_device_train_batch_size {rows} x {ranks} "
            f"rank(s) that see different rows); {advice}"
        )
    return whole // (rows * ranks)


def _only_stage(arguments: Arguments) -> StageSpec:
    train = arguments.train
    epochs = None if train.max_steps > 0 else Fraction(str(train.num_train_epochs))
    return StageSpec("", None, arguments.data.mixing, epochs)


def weights_of(sources: Sequence[FoundSource]) -> Weights:
    """What the registry says of sources that weigh more or less than once an epoch."""
    return {source.name: SourceMix(epochs=Fraction(str(source.weight))) for source in sources if source.weight != 1}


def _make_mix(arguments: Arguments, samples: SampleStore, spec: StageSpec, number: int, weights: Weights) -> Mix:
    data = arguments.data
    sources = sources_of(samples, spec.dataset)
    there = {source.name for source in sources}
    mixes = {name: mix for name, mix in weights.items() if name in there}
    mixes.update(_mixes(spec.mixing, spec.dataset or names_of(data.dataset)))
    quotas = make_quotas(sources, mixes, data.mixing_unit, data.mixing_exhausted)
    return Mix(
        sources,
        quotas,
        arguments.train.seed,
        unit=data.mixing_unit,
        stage=number,
        shuffle=arguments.train.shuffle,
        mixed=bool(mixes),
    )


def _mixes(mixing: Mixing, names: Optional[Sequence[str]]) -> Dict[str, SourceMix]:
    return read_mixing(mixing, names).value


def split_dev(samples: SampleStore, arguments: Any) -> DevSets:
    """The dev samples by set. Several sources are sets of their own; so is the only one that eval_dataset names."""
    names = samples.source_names
    if len(names) == 1 and not arguments.eval_dataset:
        return {"": samples}
    sets = {name: _OfSource(samples, index) for index, name in enumerate(names)}
    return {name: one for name, one in sets.items() if len(one)}  # val_size may take no row of a small source


def require_metric(metric: Optional[str], sets: DevSets) -> None:
    """Refuse a metric of a dev set that there is not.

    Raises:
        ArgumentError: names those that there are.
    """
    given = (metric or "loss")[len("eval_") :] if (metric or "").startswith("eval_") else metric or "loss"
    name, _, _ = given.rpartition("_")
    if name and name not in sets:
        there = ", ".join(f"{one}_loss" for one in sets if one) or "loss, perplexity, accuracy"
        raise ArgumentError(f"metric_for_best_model is {metric}, and no dev set is called {name!r}; there: {there}")


class _OfSource(Sequence):
    """The samples of one source of a store."""

    def __init__(self, samples: SampleStore, source: int) -> None:
        self._samples = samples
        self._numbers = np.flatnonzero(np.asarray(samples.source) == source)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Sample:
        return self._samples[self._numbers[index]]


# ---- for the plan ----------------------------------------------------------------------------------------------


def packing_lines(feed: MapFeed) -> List[str]:
    """The certificate of the packing of each stage's first epoch; none without packing."""
    lines = []
    for number, stage in enumerate(feed.stages):
        rows = feed.first_rows(number)
        if rows.packs is not None:
            lines += [f"{stage.name}:"] if stage.name else []
            lengths = rows.lengths + feed.settings.before_sample
            lines += certify(rows.packs, lengths, feed.settings.capacity).lines()
    return lines


def mixing_tables(feed: MapFeed) -> List[Dict[str, Any]]:
    """What each stage takes of each source; empty for one source that is taken whole."""
    if not any(feed.samples.source_names) or (len(feed.samples.source_names) == 1 and feed.stages[0].mix.is_static):
        return []
    tables = []
    for stage, segments in zip(feed.stages, feed.stage_segments()):
        taken = [max(min(one.end, feed.num_steps) - one.first_step, 0) for one in segments]
        num_epochs = sum(num / one.num_steps_of_epoch for num, one in zip(taken, segments))
        num_steps = sum(taken)
        if len(feed.stages) == 1:
            num_epochs, num_steps = feed.num_epochs, feed.num_steps
        sources = mix_table(stage.mix, feed.samples, num_epochs)
        tables.append({"stage": stage.name, "num_steps": num_steps, "num_epochs": num_epochs, "sources": sources})
    return tables


def stream_lines(feed: StreamFeed) -> List[str]:
    """What is known of a mix before anything is read."""
    lines = []
    for stage in feed.stages:
        mix, names = stage.mix, [feed.stream.source_names[source] for source in stage.mix.sources]
        if mix.shares is None:
            what = f"{', '.join(names)}, one after the other" if len(names) > 1 else names[0]
        else:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, mix.shares))
            ending = "begins again" if mix.repeats else "ends the epoch"
            what = f"{shares} of the {mix.unit.replace('_', ' ')}; a source at its end {ending}"
        if what:
            lines.append(f"{stage.name}, {stage.steps:,} steps: {what}" if stage.steps else what)
    return lines


def mixing_lines(tables: Sequence[Dict[str, Any]]) -> List[str]:
    """The tables in words and numbers."""
    lines = []
    for number, table in enumerate(tables, start=1):
        if len(tables) > 1:
            lines.append(
                f"{number} of {len(tables)}, {table['stage']}: {table['num_steps']:,} steps, "
                f"{table['num_epochs']:.2f} epochs of"
            )
        width = max(len("source"), *(len(row["source"]) for row in table["sources"]))
        head = ("samples", "share", "tokens", "share", "trained", "share", "of the source", "in the run")
        lines.append(f"{'source':<{width}}" + "".join(f"{word:>{max(len(word) + 2, 9)}}" for word in head))
        for row in table["sources"]:
            cells = []
            for unit in ("samples", "tokens", "trained_tokens"):
                cells += [f"{row[unit]:,}", f"{row[f'{unit}_share']:.1%}"]
            cells += [f"{row['epochs']:.2f} x", f"{row['epochs_of_run']:.2f} x"]
            lines.append(
                f"{row['source']:<{width}}"
                + "".join(f"{cell:>{max(len(word) + 2, 9)}}" for word, cell in zip(head, cells))
            )
    return lines
