"""Tokenised samples that are kept between runs."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.arguments.data import DataArguments
from paddle_sft.core.errors import DataError
from paddle_sft.data import build, cache
from paddle_sft.data.build import build_samples
from paddle_sft.data.cache_key import WITHOUT_EFFECT

ROW = {"src": "a question", "tgt": "an answer"}


@pytest.fixture
def folder(tmp_path):
    """The tokenizer's folder."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (path / "model.safetensors").write_text("weights", encoding="utf-8")
    return path


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def fills(monkeypatch):
    """How often samples were made."""
    made = []
    fill = build._fill
    monkeypatch.setattr(build, "_fill", lambda *given: made.append(1) or fill(*given))
    return made


@pytest.fixture
def build_kept(arguments, tokenizer, folder, kept, write):
    write("train.json", [ROW, {**ROW, "id": 1}])

    def make(split="train", stage="sft", **given):
        given = {"data_cache_dir": str(kept), **given}
        chosen = given.pop("tokenizer", tokenizer)
        return build_samples(arguments(**given), chosen, split, stage, model_folder=folder)

    return make


def content_of(samples):
    return [(one.ids.tolist(), one.trained.tolist(), one.place, one.label) for one in samples]


def entries(kept):
    return [path for path in kept.iterdir() if not path.name.startswith(".")]


def test_the_second_time_samples_and_report_come_back_as_they_were(build_kept, fills, kept):
    first, second = build_kept(), build_kept()
    assert fills == [1] and len(entries(kept)) == 1
    assert content_of(second.samples) == content_of(first.samples) and len(first) == 2
    assert (second.report, second.notes, second.unused_keys, second.files) == (
        first.report, first.notes, first.unused_keys, first.files,
    )  # fmt: skip
    assert first.where.startswith(f"{entries(kept)[0]} (0.0 MB), made ") and first.where.endswith("by this run")
    assert second.where.startswith(f"{entries(kept)[0]} (0.0 MB), made 20")
    assert f"tokenised samples: {second.where}" in second.lines()


ROW_SETS = st.lists(
    st.fixed_dictionaries({"src": st.text(max_size=9), "tgt": st.text(min_size=1, max_size=9).filter(str.strip)}),
    min_size=1,
    max_size=8,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ROW_SETS, stage=st.sampled_from(["sft", "pretrain"]), template=st.sampled_from(["default", "chatml"]))
def test_what_was_kept_is_what_a_fresh_build_makes(build_kept, write, content, stage, template):
    write("train.json", content)
    given_keys = dict(stage=stage, template=template, max_length=40)
    try:
        fresh = build_kept(data_cache_dir="none", **given_keys)
    except DataError as error:
        assert "no sample is left" in str(error)
        return
    for _ in range(2):
        again = build_kept(**given_keys)
        assert content_of(again.samples) == content_of(fresh.samples)
        assert (again.report, again.notes, again.unused_keys) == (fresh.report, fresh.notes, fresh.unused_keys)
        assert again.samples.fingerprint() == fresh.samples.fingerprint()
        assert again.samples.largest_id == fresh.samples.largest_id


CHANGES = {
    "a row": lambda env: env.write("train.json", [ROW, {**ROW, "id": 2}]),
    "the tokenizer's file": lambda env: (env.folder / "tokenizer.json").write_text("{ }", encoding="utf-8"),
    "a file that may belong to the tokenizer": lambda env: (env.folder / "merges.txt").write_text("", encoding="utf-8"),
    "what the tokenizer does": lambda env: env.given.update(tokenizer=env.make_tokenizer(adds_bos=False)),
    "max_length": lambda env: env.given.update(max_length=2047),
    "src_length": lambda env: env.given.update(src_length=1023),
    "length_policy": lambda env: env.given.update(length_policy="drop"),
    "max_samples": lambda env: env.given.update(max_samples=2),
    "the template": lambda env: env.given.update(template="chatml"),
    "train_on_prompt": lambda env: env.given.update(train_on_prompt=True),
    "a key that nobody knows today": lambda env: env.given.update(some_new_key=1),
    "columns": lambda env: env.given.update(columns={"src": "tgt", "tgt": "src"}),
    "data_format": lambda env: env.given.update(data_format="src_tgt"),
    "the stage": lambda env: env.given.update(stage="pretrain"),
    "the stage, documents not joined": lambda env: env.given.update(stage="pretrain", packing="best_fit"),
    "the name of the file, which places have": lambda env: (
        env.data.rename(env.data.with_name("other.json")),
        env.given.update(dataset_name_or_path=str(env.data.with_name("other.json"))),
    ),
    "the suite's code": lambda env: env.monkeypatch.setattr("paddle_sft.data.cache_key._hash_code", lambda: "other"),
}
NO_CHANGES = {
    "nothing": lambda env: None,
    "the time of the file": lambda env: os.utime(env.data, (1, 1)),
    "the folder of the data": lambda env: (
        env.elsewhere.mkdir(),
        shutil.move(env.data, env.elsewhere / "train.json"),
        env.given.update(dataset_name_or_path=str(env.elsewhere)),
    ),
    "weights": lambda env: (env.folder / "model.safetensors").write_text("others", encoding="utf-8"),
    "the number of workers": lambda env: env.given.update(preprocessing_num_workers=3),
    "packing, where documents are not joined": lambda env: env.given.update(packing="best_fit"),
}


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_what_changes_samples_makes_them_anew_and_nothing_else_does(
    build_kept, fills, write, folder, make_tokenizer, monkeypatch, tmp_path, change
):
    class Env:
        data, elsewhere, given = tmp_path / "train.json", tmp_path / "elsewhere", {}

    env = Env()
    env.write, env.folder, env.make_tokenizer, env.monkeypatch = write, folder, make_tokenizer, monkeypatch
    build_kept()
    {**CHANGES, **NO_CHANGES}[change](env)
    build_kept(**env.given)
    assert len(fills) == (2 if change in CHANGES else 1)


def test_what_is_listed_as_without_effect_is_a_data_argument():
    assert set(WITHOUT_EFFECT) <= {field.name for field in dataclasses.fields(DataArguments)}


def test_the_text_of_a_template_file_counts(build_kept, fills, tmp_path):
    template = tmp_path / "own.jinja"
    text = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    for content in (text, text, text.replace("|", "/")):
        template.write_text(content, encoding="utf-8")
        build_kept(template=str(template))
    assert len(fills) == 2


def test_samples_of_a_template_that_writes_the_date_are_not_kept(build_kept, fills, kept, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}|{% endfor %}", encoding="utf-8")
    found = [build_kept(template=str(template)) for _ in range(2)][-1]
    assert len(fills) == 2 and not kept.exists()
    assert "tokenised samples: in memory (the template writes the date, so they are not kept)" in found.lines()


def test_whether_documents_are_joined_counts(build_kept, fills):
    for packing in ("none", "best_fit", "none"):
        build_kept(stage="pretrain", packing=packing, max_length=5)
    assert len(fills) == 2


def test_nothing_waits_for_the_disk(build_kept, monkeypatch):
    """What a power failure damages is made again; on a busy disk a wait may take minutes."""

    def refuse(handle):
        raise AssertionError("fsync")

    monkeypatch.setattr(os, "fsync", refuse)
    assert content_of(build_kept().samples) == content_of(build_kept().samples)


def test_overwrite_cache_makes_them_anew(build_kept, fills, kept):
    build_kept()
    before = entries(kept)[0].stat().st_ino
    build_kept(overwrite_cache=True)
    assert len(fills) == 2 and entries(kept)[0].stat().st_ino != before


def test_ranks_that_waited_while_another_overwrote_use_what_it_made(build_kept, fills, monkeypatch):
    build_kept(overwrite_cache=True)
    now = time.time
    monkeypatch.setattr(cache.time, "time", lambda: now() - 60)  # as if this one had begun before the other was done
    build_kept(overwrite_cache=True)
    assert len(fills) == 1


DAMAGES = {
    "a byte": lambda entry: (entry / "ids").write_bytes(bytes([(entry / "ids").read_bytes()[0] ^ 1])
                                                       + (entry / "ids").read_bytes()[1:]),
    "an end": lambda entry: (entry / "places").write_bytes((entry / "places").read_bytes()[:-1]),
    "a file": lambda entry: (entry / "trained").unlink(),
    "the list of files": lambda entry: (entry / "manifest.json").write_text("[", encoding="utf-8"),
    "no list of files": lambda entry: (entry / "manifest.json").unlink(),
    "the header": lambda entry: (entry / "store.json").write_text("{}", encoding="utf-8"),
    "the report": lambda entry: (entry / "samples.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew_and_that_is_said(build_kept, fills, kept, caplog, monkeypatch, damage):
    monkeypatch.setattr(cache.get_logger(), "propagate", True)
    whole = content_of(build_kept().samples)
    DAMAGES[damage](entries(kept)[0])
    again = [content_of(build_kept().samples) for _ in range(2)]
    assert again == [whole, whole] and len(fills) == 2
    assert "damaged and are made again" in caplog.text and str(entries(kept)[0]) in caplog.text


def test_what_no_run_has_used_for_a_month_is_removed_when_others_are_made(build_kept, kept):
    build_kept()
    (used,) = entries(kept)
    build_kept(max_length=99)
    (unused,) = set(entries(kept)) - {used}
    for entry in (used, unused):
        os.utime(entry, (1, 1))
    build_kept()  # reading is use
    build_kept(max_length=98)
    assert used.is_dir() and not unused.exists() and len(entries(kept)) == 2


def test_samples_in_use_outlive_their_folder(build_kept, kept):
    first = build_kept()
    before = content_of(first.samples)
    build_kept(overwrite_cache=True)
    shutil.rmtree(kept)
    assert content_of(first.samples) == before


def test_bad_rows_leave_nothing_behind(build_kept, kept, write):
    write("train.json", b'{"src": "a"}\n')
    with pytest.raises(DataError, match="line 1: no 'tgt' key"):
        build_kept()
    assert entries(kept) == [] and not list(kept.glob(".unfinished*"))


def test_data_that_changes_while_it_is_read_is_refused(build_kept, kept, monkeypatch, write):
    fill = build._fill

    def changed(*given):
        found = fill(*given)
        write("train.json", [ROW])
        return found

    monkeypatch.setattr(build, "_fill", changed)
    with pytest.raises(DataError, match="train.json was changed while it was read; start again"):
        build_kept()
    assert entries(kept) == []


def test_where_nothing_can_be_written_the_run_goes_on_and_that_is_said(build_kept, kept, caplog, monkeypatch):
    monkeypatch.setattr(cache.get_logger(), "propagate", True)
    kept.write_text("a file, no folder", encoding="utf-8")
    built = build_kept()
    assert len(built) == 2 and "tokenised samples: in memory" in built.lines()
    assert f"can't be kept in {kept}" in caplog.text and "the run goes on" in caplog.text


def test_a_folder_that_can_only_be_read_is_read(build_kept, fills, monkeypatch):
    build_kept()

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("touch", "mkdir"):
        monkeypatch.setattr(cache.Path, name, refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert "tokenised samples: in memory" not in build_kept().lines() and len(fills) == 1
    assert "tokenised samples: in memory" in build_kept(max_length=9).lines()


@pytest.mark.parametrize("name", ["open", "fcntl"])
def test_where_nothing_can_be_locked_the_run_goes_on_and_that_is_said(build_kept, kept, caplog, monkeypatch, name):
    monkeypatch.setattr(cache.get_logger(), "propagate", True)

    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    if name == "open":
        monkeypatch.setattr(cache, "open", refuse, raising=False)
    else:
        monkeypatch.setattr(fcntl, "lockf", refuse)
    assert len(build_kept()) == 2 and len(entries(kept)) == 1
    assert "can't be locked (No locks available)" in caplog.text


SCRIPT = """
import json, sys, time
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from pathlib import Path
from tests.data.conftest import ByteTokenizer
from paddle_sft.data import build, cache
cache.SAYS_AFTER, cache.SAYS_AGAIN = 0.2, 0.2
fill = build._fill
def slow(*given):
    print("filling", flush=True)
    while {gate!r} and not Path({gate!r}).exists():
        time.sleep(0.02)
    return fill(*given)
build._fill = slow
{before}
arguments = SimpleNamespace(dataset_name_or_path={data!r}, src_length=9, max_length=99, length_policy="drop",
    template="default", max_samples=None, preprocessing_num_workers=1, data_cache_dir={kept!r})
built = build.build_samples(arguments, ByteTokenizer(), "train", "sft", False, Path({folder!r}))
print(len(built), built.where, flush=True)
"""
LIMIT_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.fixture
def start(write, folder, kept, tmp_path, request):
    """Another process that wants the same samples; it makes them when the file `gate` is there."""
    write("train.json", [ROW] * 300)

    def make(gate="", before=""):
        code = SCRIPT.format(root=str(request.config.rootpath), gate=str(gate), data=str(tmp_path / "train.json"),
                             kept=str(kept), folder=str(folder), before=before)  # fmt: skip
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen([sys.executable, "-c", code], **pipes)

    return make


def test_one_process_makes_them_while_the_other_waits_and_says_for_whom(start, tmp_path):
    first = start(gate=tmp_path / "gate")
    assert first.stdout.readline() == "filling\n"
    second = start()
    said = second.stderr.readline()
    assert f"waiting for process {first.pid} on " in said and "(rank 0), which tokenises the same data (" in said
    (tmp_path / "gate").touch()
    (out, _), (first_out, _) = second.communicate(timeout=60), first.communicate(timeout=60)
    assert out.startswith("300 ") and first_out.startswith("300 ")


def test_a_process_that_was_killed_leaves_no_lock_and_what_it_left_is_removed(start, kept, tmp_path):
    first = start(gate=tmp_path / "never")
    assert first.stdout.readline() == "filling\n"
    first.kill()
    first.communicate(timeout=60)
    (left,) = kept.glob(".unfinished-*")
    other = kept / ".unfinished-0123"  # of a run over other data that was killed, too
    other.mkdir()
    (kept / ".lock-0123").touch()
    out, err = start().communicate(timeout=60)
    assert out.startswith("filling\n300 "), err
    assert "waiting" not in err and not left.exists() and not other.exists()


@pytest.mark.parametrize("limit", [0, 100, 2000, 20000])
def test_a_disk_that_fills_up_does_not_stop_the_run(start, kept, limit):
    """Files that may not grow beyond `limit` bytes: the ids have 24,000, the list of files more than 100."""
    out, err = start(before=LIMIT_FILES.format(limit)).communicate(timeout=60)
    assert out == "filling\n300 in memory\n", err
    assert "File too large" in err and "the run goes on" in err
    assert not [path for path in kept.iterdir() if not path.name.startswith(".lock")]
