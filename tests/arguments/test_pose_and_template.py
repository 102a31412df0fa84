"""PoSE with its length, and PaddleNLP's chat_template: what goes together, and what is refused."""

from __future__ import annotations

import pytest

POSE = {"use_pose_convert": True, "pose_max_length": 8192}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use_pose_convert": True}, 'pose_max_length is missing; give the context to train for, "pose_max'),
        ({"pose_max_length": 8192}, 'pose_max_length is 8192 but PoSE is off; add "use_pose_convert": true'),
        ({**POSE, "max_length": 8192}, "pose_max_length is 8192 and max_length is 8192, so no position can be skipped"),
        ({**POSE, "stage": "classification"}, "use_pose_convert is for the stages sft and pretrain, stage is class"),
        ({"chat_template": "a.json", "template": "qwen"}, "chat_template and template are both given"),
    ],
)  # fmt: skip
def test_what_can_not_work_is_one_clear_error(problems, changes, message):
    [line] = problems(changes)
    assert message in line


def test_pose_is_for_both_token_stages(load):
    assert load(POSE).data.pose_max_length == load({**POSE, "stage": "pretrain"}).data.pose_max_length == 8192


def test_chat_template_is_the_template(load):
    found = load({"chat_template": "my/chat_template.json"})
    assert found.data.template == "my/chat_template.json"
    assert found.derived["template"] == ("my/chat_template.json", "chat_template is my/chat_template.json")
    own = load({"model_name_or_path": "some/model", "chat_template": "some/model"})
    assert own.data.template == "auto" and load({"chat_template": None}).data.template == "default"
