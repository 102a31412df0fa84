"""A key whose feature is not built is accepted where it is off and refused by name elsewhere; nothing is ignored."""

from __future__ import annotations

import pytest

from paddle_sft.arguments import upstream_policy
from paddle_sft.arguments.keys import UPSTREAM_GROUP, finetune_catalogue
from paddle_sft.arguments.upstream_table import UPSTREAM
from paddle_sft.arguments.values import is_accepted, members_of

KEYS = finetune_catalogue().keys
NOT_YET = [key for key in KEYS.values() if not key.available]
names = pytest.mark.parametrize("key", NOT_YET, ids=lambda key: key.name)


def value_that_switches_on(key):
    """A value of the key's type that none of its off values is."""
    for value in (True, False, 2, 0.25, "stage2", ["lm_head"], [[1, 2]]):
        if is_accepted(value, key.hint) and not key.is_off(value):
            return value
    raise AssertionError(f"no value switches {key.name} on")


@names
def test_it_is_accepted_at_every_value_that_switches_it_off(load, key):
    for value in key.off_values:
        assert key.name in load({key.name: value}).given


@names
def test_it_is_refused_by_name_at_any_other_value(problems, key):
    lines = problems({key.name: value_that_switches_on(key)})
    assert len(lines) == 1
    assert lines[0].startswith(f"{key.name} ") and "is not available yet; " in lines[0]
    assert key.not_yet.instead in lines[0] and "Leave it out, or write " in lines[0]


@names
def test_it_says_what_to_do_instead_in_a_sentence(key):
    assert key.not_yet.instead.endswith(".") and len(key.not_yet.instead) > 12


@pytest.mark.parametrize(
    "name",
    "eval_with_do_generation expert_parallel_degree context_parallel_degree push_to_hub "
    "trust_remote_code use_liger "
    "skip_data_intervals to_static minimum_eval_times "
    "top_k top_p deepspeed tf32 model_revision hub_model_id hub_strategy".split(),
)
def test_what_other_issues_bring_is_marked_not_available(name):
    assert not KEYS[name].available


@pytest.mark.parametrize(
    "name, value",
    [("tensor_parallel_degree", 1), ("tensor_parallel_degree", -1), ("sharding_parallel_degree", -1), ("sharding", ""),
     ("sharding", None), ("model_revision", "main"), ("position", "f7+l7")],
)  # fmt: skip
def test_the_ways_other_configurations_write_off_are_off(load, name, value):
    load({name: value})


def test_an_alias_is_refused_under_the_name_the_user_wrote(problems):
    [line] = problems({"use_liger_kernel": True})
    assert line.startswith("use_liger_kernel true is not available yet")


def test_true_is_not_one_and_zero_is_not_false(problems):
    assert "must be true or false" in problems({"sequence_parallel": 0})[0]
    assert "must be a whole number" in problems({"tensor_parallel_degree": True})[0]


@pytest.mark.parametrize("stage", ["rm", "ppo", "dpo", "kto"])
def test_a_stage_that_is_not_built_is_refused_by_name(problems, stage):
    there = "sft, pretrain and classification"
    assert problems({"stage": stage}) == [f"stage '{stage}' is not available yet; the stages are {there}"]


@pytest.mark.parametrize(
    "name, value",
    [("optim", "adamw_mini"), ("report_to", "all"), ("report_to", ["swanlab"]), ("device", "npu")],
)
def test_a_known_value_that_is_not_available_is_refused_by_name(problems, name, value):
    [line] = problems({name: value})
    assert line.startswith(name) and "is not available yet; " in line


# ---- PaddleNLP's own keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_every_key_of_paddlenlp_is_known(name):
    assert finetune_catalogue().find(name) is not None


def test_every_key_of_paddlenlp_has_exactly_one_status():
    tables = [set(upstream_policy.PASSED_ON), set(upstream_policy.KEPT_ANYWAY), set(upstream_policy.REFUSED)]
    ours = {name for name in UPSTREAM if finetune_catalogue().find(name).group != UPSTREAM_GROUP}
    everything = [name for table in [*tables, ours] for name in table]
    assert sorted(everything) == sorted(UPSTREAM)


@pytest.mark.parametrize("name", sorted(set(UPSTREAM) - {"output_dir"}))
def test_every_key_of_paddlenlp_is_accepted_at_its_default_where_that_is_off(load, name):
    key = finetune_catalogue().find(name)
    default = UPSTREAM[name].default
    if key.group == UPSTREAM_GROUP or not key.available:
        load({name: default})


@pytest.mark.parametrize("name", [*upstream_policy.PASSED_ON, *upstream_policy.KEPT_ANYWAY])
def test_a_key_that_is_passed_on_reaches_upstream_as_written(load, name):
    value = {bool: True, int: 16, float: 1024.0, str: "text"}.get(members_of(UPSTREAM[name].hint)[0], ["matmul"])
    arguments = load({name: value})
    assert arguments.upstream == {name: value}


@pytest.mark.parametrize("name", upstream_policy.KEPT_ANYWAY)
def test_a_key_that_has_no_effect_is_shown_with_the_reason(load, name):
    value = 16 if name == "eval_accumulation_steps" else True
    assert load({name: value}).derived[name] == (value, f"holds anyway: {upstream_policy.KEPT_ANYWAY[name]}")


def test_what_the_user_did_not_give_is_not_passed_on(load):
    assert load().upstream == {}
