"""How LoRA's relatives are written, and what can't be meant."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "given, method",
    [
        ({"lora": True}, "lora"),
        ({"lora": True, "pissa": True}, "pissa"),
        ({"pissa": True}, "pissa"),
        ({"lora": True, "use_dora": True}, "dora"),
        ({"lora": True, "lora_use_mixer": True}, "moslora"),
        ({"lora": True, "use_mora": True}, "mora"),
        ({"lora": True, "adapter": "olora"}, "olora"),
        ({"adapter": "lora_fa"}, "lora_fa"),
    ],
)
def test_a_relatives_switch_stands_alone_or_beside_loras(load, given, method):
    assert load({"lora": False, **given}).adapter.adapter == method


@pytest.mark.parametrize(
    "given, alpha",
    [
        ({"lora": True}, 32.0),
        ({"lora": True, "rslora": True}, 4.0),
        ({"adapter": "pissa"}, 16.0),
        ({"adapter": "olora"}, 16.0),
        ({"adapter": "dora"}, 32.0),
        ({"adapter": "dora", "lora_alpha": 5}, 5.0),
    ],
)
def test_alpha_follows_the_method(load, given, alpha):
    assert load({"lora": False, "lora_rank": 16, **given}).adapter.lora_alpha == alpha


def test_a_learning_rate_that_is_not_given_is_the_methods_own_and_said(load):
    arguments = load({"lora": True, "learning_rate": ...})
    assert arguments.train.learning_rate == 3e-4 and "adapter lora" in arguments.derived["learning_rate"][1]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"pissa": True, "use_dora": True}, "one adapter at a time: dora and pissa are asked for; keep one"),
        ({"adapter": "lora", "pissa": True}, "one adapter at a time: lora and pissa are asked for; keep one"),
        ({"adapter": "mora", "lora_plus_scale": 4}, "lora_plus_scale is 4.0 but adapter mora has no such key"),
        ({"adapter": "mora", "lora_alpha": 4}, "lora_alpha is 4.0 but adapter mora has no such key"),
        ({"adapter": "lora_fa", "lora_plus_scale": 4}, "lora_plus_scale is 4.0 but adapter lora_fa has no such key"),
        ({"adapter": "dora", "loftq": True}, "loftq is true but adapter dora has no such key"),
        ({"lora": True, "pissa_niter": 4}, "pissa_niter is 4 but adapter lora has no such key"),
        (
            {"lora": True, "rank_pattern": {"q_proj": 0}},
            "rank_pattern must hold numbers at least 1, got 0 for 'q_proj'",
        ),
        ({"lora": True, "alpha_pattern": {"q_proj": 0}}, "alpha_pattern must hold numbers above 0"),
        ({"lora": True, "rank_pattern": {"q_proj": 2.5}}, "rank_pattern must be an object"),
        ({"lora_modules_to_save": ["norm"]}, 'lora_modules_to_save is ["norm"] but lora is off'),
        (
            {"lora": True, "lora_target_modules": "q_proj,v_proj", "lora_modules_to_save": "v_proj"},
            "v_proj stands in lora_target_modules and in lora_modules_to_save",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused(problems, given, message):
    found = problems({"lora": False, **given})
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize("given", ["lm_head,norm", ["lm_head", "norm"], '["lm_head", "norm"]'])
def test_layers_to_save_are_a_list_however_they_are_written(load, given):
    assert load({"lora": True, "lora_modules_to_save": given}).adapter.lora_modules_to_save == ["lm_head", "norm"]


def test_quick_lora_is_accepted(load):
    assert load({"lora": True, "use_quick_lora": True}).adapter.adapter == "lora"
