"""mixing, data_stages, val_size, eval_dataset and lazy: what they may say, and what they may not say together."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from paddle_sft.arguments.mixing import SourceMix, StageSpec, names_of, read_mixing, read_stages

TWO = {"dataset": "law,chat", "dataset_name_or_path": ...}


@pytest.mark.parametrize(
    "given, names",
    [("law, chat", ("law", "chat")), (["law", "chat"], ("law", "chat")), ({"law": "a.json"}, ("law",)), (None, None)],
)
def test_the_names_of_the_sources(given, names):
    assert names_of(given) == names


def test_a_mix_is_read_as_it_is_written():
    read = read_mixing(
        {"law": {"epochs": 0.1}, "chat": {"share": 0.3, "max_samples": 9, "max_tokens": 99}}, ["law", "chat"]
    )
    assert read.problems == []
    assert read.value == {
        "law": SourceMix(epochs=Fraction(1, 10)),
        "chat": SourceMix(share=Fraction(3, 10), max_samples=9, max_tokens=99),
    }
    assert read_mixing([0.9, 0.1], ["law", "chat"]).value["chat"] == SourceMix(share=Fraction(1, 10))
    assert read_mixing(None, None).value == {}


@pytest.mark.parametrize(
    "given, words",
    [
        ({"lwa": {"epochs": 1}}, "names 'lwa', which dataset does not, did you mean 'law'?"),
        ({"law": 2}, 'law is 2; write {"epochs": 2} or {"share": 0.3}'),
        ({"law": {"epoch": 2}}, "law has an unknown key 'epoch', did you mean 'epochs'?"),
        ({"law": {"epochs": 1, "share": 0.3}}, "law has epochs and share; keep one"),
        ({"law": {"epochs": 0}}, "law: epochs is 0; a number above 0"),
        ({"law": {"epochs": True}}, "law: epochs is true"),
        ({"law": {"share": 1}}, "law: share is 1; a number below 1"),
        ({"law": {"max_samples": 1.5}}, "law: max_samples is 1.5; a whole number above 0"),
        ({"law": {"share": 0.5}, "chat": {"share": 0.6}}, "shares that add up to 1.1; as every source has one"),
        ([0.5], "has 1 shares and dataset has 2 names"),
        ([0.5, 0.6], "shares that add up to 1.1"),
        ([1, 0], "law: share is 1; a number above 0 and below 1"),
    ],
)
def test_a_mix_that_can_not_be_meant_is_refused(problems, given, words):
    line = problems({**TWO, "mixing": given})[0]
    assert line.startswith("mixing ") and words in line


def test_some_shares_that_leave_nothing_to_the_rest_are_refused(problems):
    three = {**TWO, "dataset": "law,chat,books", "mixing": {"law": {"share": 0.5}, "chat": {"share": 0.5}}}
    assert "leaves nothing to the other sources" in problems(three)[0]


def test_a_mix_needs_named_sources(problems):
    [line] = problems({"mixing": {"law": {"epochs": 1}}})
    assert line.startswith('mixing needs named sources; name them with "dataset"')


def test_stages_are_read_as_they_are_written():
    read = read_stages(
        [{"name": "read", "dataset": "law", "epochs": 1.5}, {"mixing": [0.5, 0.5], "steps": 9}], ["law", "chat"]
    )
    assert read.problems == []
    assert read.value == [
        StageSpec("read", ("law",), epochs=Fraction(3, 2)), StageSpec("stage 2", None, [0.5, 0.5], steps=9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stages, words",
    [
        ([], "is empty"),
        ([{"epochs": 1, "steps": 2}], "stage 1 has epochs and steps; give one of epochs, steps, tokens"),
        ([{"dataset": "law"}], "stage 1 has no length"),
        ([{"steps": 1.5}], "stage 1: steps is 1.5; a whole number above 0"),
        ([{"epochs": 1}, {"epochs": 1, "dataset": "lwa"}], "stage 2: dataset names lwa; sources of the run: law, chat"),
        ([{"epochs": 1, "dataset": "law,law"}], "dataset names law twice"),
        ([{"epochs": 1, "dataset": 3}], "stage 1: dataset is 3"),
        ([{"epochs": 1, "mixin": {}}], "unknown key 'mixin', did you mean 'mixing'?"),
        ([{"epochs": 1, "mixing": 3}], "mixing is 3; an object by name"),
        ([{"epochs": 1, "dataset": "law", "mixing": {"chat": {"epochs": 1}}}], "mixing names 'chat', which"),
        ([{"epochs": 1, "name": 3}], "name is 3, text is needed"),
        ([{"epochs": 1, "name": "a"}, {"epochs": 1, "name": "a"}], "has the name a twice"),
    ],
)  # fmt: skip
def test_stages_that_can_not_be_meant_are_refused(problems, stages, words):
    [line] = problems({**TWO, "data_stages": stages})
    assert line.startswith("data_stages ") and words in line


STAGES = [{"epochs": 1}, {"steps": 5, "mixing": [0.5, 0.5]}]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data_stages": STAGES, "mixing": [0.5, 0.5]}, "mixing and data_stages are both given"),
        ({"data_stages": STAGES, "num_train_epochs": 2}, "num_train_epochs and data_stages are both given"),
        ({"mixing_unit": "tokens"}, "mixing_unit is tokens but nothing is mixed"),
        ({"mix_strategy": "interleave_over"}, "mixing_exhausted is repeat but nothing is mixed"),
        ({"mix_strategy": "interleave_once"}, 'mix_strategy "interleave_once" is not available yet; concat, too'),
        ({"val_size": 1.5}, "val_size is 1.5; below 1 it is a part of the rows, from 1 on a number"),
        ({"val_size": 0.1, "eval_dataset": "exam"}, "val_size and eval_dataset are both given"),
        ({"lazy": True}, 'lazy reads while training.*add "max_steps": N'),
        ({"lazy": True, "max_steps": 5, "save_strategy": "epoch"}, 'save_strategy is epoch but lazy is on.*"steps"'),
        ({"lazy": True, "max_steps": 5, "logging_strategy": "epoch"}, "logging_strategy is epoch but lazy is on"),
        ({"lazy": True, "max_steps": 5, "evaluation_strategy": "epoch"}, "evaluation_strategy is epoch but lazy is on"),
        ({"lazy": True, "max_steps": 5, "val_size": 0.1}, "val_size would read all rows before training"),
        ({"lazy": True, "max_steps": 5, "mixing": {"law": {"epochs": 2}}}, "give law, chat a share"),
        ({"lazy": True, "max_steps": 5, "mixing": {"law": {"share": 0.5}}}, "give chat a share"),
        ({"lazy": True, "data_stages": STAGES}, "lazy needs the length of every stage in steps; stage 1 has none"),
    ],
)  # fmt: skip
def test_what_contradicts_is_one_clear_error(problems, changes, words):
    [line] = problems({**TWO, **changes})
    assert re.search(words, line), line


def test_classes_are_not_known_while_reading(problems):
    lines = problems({**TWO, "lazy": True, "max_steps": 5, "stage": "classification"})
    assert any(line.startswith("stage classification reads all rows first") for line in lines)


def test_what_goes_together_is_taken(load):
    arguments = load({**TWO, "lazy": True, "data_stages": [{"steps": 3}, {"steps": 5, "mixing": [0.5, 0.5]}]})
    assert arguments.data.lazy and arguments.data.data_stages[1] == {"steps": 5, "mixing": [0.5, 0.5]}
    both = load({**TWO, "interleave_probs": "0.25,0.75", "mix_strategy": "interleave_over"})
    assert both.data.mixing == [0.25, 0.75] and both.data.mixing_exhausted == "repeat"
    assert load({"dataset_name_or_path": ..., "do_train": False, "do_eval": True, "eval_dataset": {"a": "b.json"}})
    assert load({**TWO, "lazy": True, "do_train": False, "do_eval": True})
    assert load({"val_size": 0}).data.val_size == 0
    assert load(TWO, "--mixing", '{"law": {"epochs": 2}}').data.mixing == {"law": {"epochs": 2}}
