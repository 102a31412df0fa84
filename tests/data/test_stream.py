from __future__ import annotations

import gzip
import json
import os
import signal
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import DataError
from paddle_sft.data import chunks
from paddle_sft.data.build import build_samples
from paddle_sft.data.stream import build_stream


@pytest.fixture
def small_chunks(monkeypatch):
    """So that a few rows make several chunks."""
    monkeypatch.setattr(chunks, "NUM_ROWS", 7)


def content_of(samples):
    return [(one.ids.tolist(), one.trained.tolist(), one.place, one.label) for one in samples]


def rows(num, seed=0):
    draw = np.random.default_rng(seed)
    return [{"src": "s" * int(draw.integers(0, 9)), "tgt": f"answer {number}"} for number in range(num)]


def streamed(stream, source=0, **given):
    return content_of(stream.source_samples(source, 0, **given))


ROW_SETS = st.lists(
    st.fixed_dictionaries({"src": st.text(max_size=12), "tgt": st.text(min_size=1, max_size=12).filter(str.strip)}),
    min_size=1,
    max_size=30,
)


SETTINGS = st.fixed_dictionaries(
    {
        "packing": st.sampled_from(["none", "best_fit"]),
        "length_policy": st.sampled_from(["truncate_source", "split", "drop"]),
        "max_samples": st.none() | st.integers(1, 40),
    }
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ROW_SETS, stage=st.sampled_from(["sft", "pretrain"]), keys=SETTINGS, is_packed=st.booleans())
def test_a_stream_gives_what_the_whole_gives(
    tmp_path, arguments, tokenizer, small_chunks, content, stage, keys, is_packed
):
    text = "".join(json.dumps(row) + "\n\n" for row in content).encode()
    path = tmp_path / f"train.json{'.gz' * is_packed}"
    path.write_bytes(gzip.compress(text) if is_packed else text)
    lengths = dict(max_length=9, src_length=6, preprocessing_num_workers=2)
    given_arguments = arguments(dataset_name_or_path=str(path), **lengths, **keys)
    try:
        whole = build_samples(given_arguments, tokenizer, "train", stage)
    except DataError as error:
        assert "no sample is left" in str(error)
        return
    with build_stream(given_arguments, tokenizer, stage) as stream:
        assert streamed(stream) == content_of(whole.samples)
        assert stream.lines() == whole.report.lines()


@pytest.mark.parametrize("name", ["train.json", "train.json.gz", "train.csv"])
@pytest.mark.parametrize("stage, packing", [("sft", "none"), ("pretrain", "none"), ("pretrain", "best_fit")])
def test_reading_goes_on_at_any_position(write, arguments, tokenizer, monkeypatch, name, stage, packing):
    """Blocks begin and end anywhere in chunks, and the second file begins in the middle of one."""
    monkeypatch.setattr(chunks, "NUM_ROWS", 2)
    lines = ["text"] + [f"document {number}" + " and more" * (number % 4) for number in range(20)]
    content = "\n".join(lines).encode()
    if stage == "sft":
        content = b"src,tgt\n" + b"\n".join(b"a,b %d" % number for number in range(20))
    if "json" in name:
        kept = rows(20) if stage == "sft" else [{"text": line} for line in lines[1:]]
        content = "".join(json.dumps(row) + "\n" for row in kept).encode()
    write(f"train/1{name}", gzip.compress(content) if name.endswith("gz") else content)
    write(f"train/2{name}", gzip.compress(content) if name.endswith("gz") else content)
    given_arguments = arguments(max_length=37, src_length=20, packing=packing)
    with build_stream(given_arguments, tokenizer, stage) as stream:
        whole = streamed(stream)
        assert whole == content_of(build_samples(given_arguments, tokenizer, "train", stage).samples)
        samples = stream.source_samples(0, 0)
        for number in range(len(whole) + 1):
            position = json.loads(json.dumps(samples.position))
            assert position["num_samples"] <= number
            resumed = stream.source_samples(0, 0, number, position)
            again = content_of(islice(resumed, 4))
            again += streamed(stream, skip=number + len(again), start=resumed.position)  # interrupted once more
            assert again == whole[number:], number
            next(samples, None)
        assert position["num_samples"] > len(whole) - 10, "nothing is gained by the position"


def test_only_what_stands_behind_the_position_is_read(write, arguments, tokenizer, small_chunks):
    path = write("train.json", rows(40))
    with build_stream(arguments(), tokenizer, "sft") as stream:
        whole = streamed(stream)
        samples = stream.source_samples(0, 0)
        for _ in range(30):
            next(samples)
        position = samples.position
        text = bytearray(path.read_bytes())
        text[: position["place"][3]] = b"x" * position["place"][3]  # the offset of the chunk in the file
        path.write_bytes(text)
        assert position["num_samples"] == 28
        assert streamed(stream, skip=30, start=position) == whole[30:]


def test_sources_are_read_side_by_side_and_max_samples_is_shared_out(write, arguments, tokenizer, small_chunks):
    write("registry/one.json", rows(20, 1))
    write("registry/two.json", rows(20, 2))
    registry = write("registry/dataset_info.json", b'{"one": {"path": "one.json"}, "two": {"path": "two.json"}}')
    given_arguments = arguments(
        dataset_name_or_path=None, dataset="one,two", dataset_dir=str(registry.parent), max_samples=28
    )
    whole = build_samples(given_arguments, tokenizer, "train", "sft").samples
    assert whole.source_names == ("one", "two") and whole.source.tolist() == [0] * 20 + [1] * 8
    with build_stream(given_arguments, tokenizer, "sft") as stream:
        assert stream.source_names == ("one", "two")
        one, two = (stream.source_samples(number, 0) for number in (0, 1))
        found = {0: [], 1: []}
        for number in range(8):
            found[0].append(next(one))
            found[1].append(next(two))
        found[0] += list(one)
        assert next(two, None) is None
        assert content_of(found[0]) + content_of(found[1]) == content_of(whole)


def test_a_seed_draws_the_order_of_the_files_anew_for_each_pass(write, arguments, tokenizer):
    for number in range(6):
        write(f"train/{number}.json", [{"src": "a", "tgt": f"{number}"}])
    with (
        build_stream(arguments(), tokenizer, "sft", seed=3) as stream,
        build_stream(arguments(), tokenizer, "sft") as plain,
    ):
        orders = [[one.place for one in stream.source_samples(0, epoch)] for epoch in (0, 1, 0)]
        assert orders[0] == orders[2] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1]) == [one.place for one in plain.source_samples(0, 1)]
        assert sorted(orders[0]) != orders[0]


def test_a_bad_row_ends_the_run_when_it_is_reached(write, arguments, tokenizer, small_chunks):
    good = [json.dumps(row) for row in rows(30)]
    write("train.json", "\n".join([*good, "broken", *good[:3], '{"src": "a"}']).encode())
    with build_stream(arguments(), tokenizer, "sft") as stream:
        samples = stream.source_samples(0, 0)
        assert len([next(samples) for _ in range(28)]) == 28
        with pytest.raises(DataError) as error:
            list(samples)
    for words in ["line 31: not valid JSON", "line 35: no 'tgt' key", "with lazy false all rows are checked first"]:
        assert words in str(error.value)


def test_a_killed_worker_ends_the_run_and_closing_is_still_possible(write, arguments, tokenizer, small_chunks):
    write("train.json", rows(2000))
    with build_stream(arguments(preprocessing_num_workers=1), tokenizer, "sft") as stream:
        samples = stream.source_samples(0, 0)
        next(samples)
        os.kill(stream._pool._workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(DataError, match="worker process was killed .SIGKILL."):
            list(samples)


def test_the_description_names_files_sizes_and_lengths(write, arguments, tokenizer):
    path = write("train.json", rows(3))
    with build_stream(arguments(max_length=99), tokenizer, "sft", seed=5) as stream:
        said = stream.describe()
    assert json.loads(json.dumps(said)) == said
    assert said["sources"] == [
        {"name": "", "stage": "sft", "max_rows": None, "files": [["train.json", path.stat().st_size]]}
    ]
    assert (said["lengths"], said["template"], said["seed"]) == (["truncate_source", 1024, 99], "default", 5)
