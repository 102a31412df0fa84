"""What can't be combined is refused by name before anything is loaded."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.check_parallel import sharding_stage
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.core.errors import ArgumentError

BASE = {"model_name_or_path": "a/model", "dataset_name_or_path": "data", "output_dir": "out", "do_train": True}
TP, PP = {"tensor_parallel_degree": 2}, {"pipeline_parallel_degree": 2}


def load(tmp_path, **keys):
    (tmp_path / "run.json").write_text(json.dumps({**BASE, **keys}), encoding="utf-8")
    return load_finetune_arguments([str(tmp_path / "run.json")])


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"sequence_parallel": True}, "tensor_parallel_degree is -1; set it to 2"),
        ({**TP, "sep_parallel_degree": 2}, "sep_parallel_degree 2 with tensor_parallel_degree 2"),
        ({"sharding": "stage4"}, "allowed: stage1, stage2, stage3"),
        ({"sharding": "stage1 stage2"}, "allowed: stage1, stage2, stage3"),
        ({"sharding": "offload"}, "offload needs a stage; write stage1 offload"),
        ({"sharding_parallel_degree": 2}, 'add "sharding": "stage1"'),
        ({"sharding": "stage1", "sharding_parallel_degree": 1}, "among 1 rank shares nothing"),
        ({**PP, "sharding": "stage3"}, "use stage1 beside it"),
        ({**TP, "lora": True, "lora_dropout": 0.1}, "lora_dropout 0.1 does not go with tensor_parallel_degree 2"),
        ({**TP, "optim": "adafactor"}, "use adamw"),
        ({**TP, "fp16": True}, "use bf16"),
        ({**PP, "do_predict": True}, "run generate on the result"),
        ({**PP, "adapter": "prefix_tuning", "prefix_projection": False}, "prefix_projection false does not go with"),
        ({**TP, "sequence_parallel": True, "adapter": "reft", "dropout": 0.1}, "ReFT's dropout does not go with"),
        ({"virtual_pp_degree": 2}, "pipeline_parallel_degree is -1; set it to 2 or more, or leave"),
        ({**PP, "virtual_pp_degree": 2}, "gradient_accumulation_steps is 1; set it to 2 or more"),
        ({"sharding": "stage1", "fp16": True}, "fp16 does not go with sharding stage1"),
        ({"sharding": "stage3", "do_predict": True}, "do_predict does not go with sharding stage3"),
        ({"sharding": "stage2", "stage": "classification"}, "stage classification does not go with sharding stage2"),
        ({**TP, "freeze": True}, "freeze does not go with tensor_parallel_degree 2"),
        ({**PP, "lora": True, "lora_path": "a/folder"}, "lora_path does not go with pipeline_parallel_degree 2"),
        ({**PP, "neftune": True}, "leave it out"),
        ({**PP, "stage": "classification"}, "stage classification does not go with pipeline_parallel_degree 2"),
    ],
)
def test_a_combination_that_is_not_right_is_refused(keys, said, tmp_path):
    with pytest.raises(ArgumentError) as refused:
        load(tmp_path, **keys)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        {**TP, **PP, "sequence_parallel": True, "lora": True},
        {**TP, "sequence_parallel": True, "weight_quantize_algo": "nf4", "lora": True},
        {**TP, "adapter": "reft", "dropout": 0.1},
        {**PP, "sharding": "stage1", "lora": True, "lora_dropout": 0.1},
        {"sharding": "stage3", "sharding_parallel_degree": 4},
        {"sharding": True},
        {"sep_parallel_degree": 2},
    ],
)
def test_what_is_verified_is_taken(keys, tmp_path):
    load(tmp_path, **keys)


def test_sharding_is_a_stage():
    assert [sharding_stage(value) for value in (True, False, None, "", "stage2", "stage3 offload")] == [
        1,
        0,
        0,
        0,
        2,
        3,
    ]
