"""How a run is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from paddle_sft.arguments.fields import Bounds, Checked, NotYet, argument

_DATA_PARALLEL = NotYet(
    "every device holds the whole model (data parallel); LoRA and recompute save memory.", off=(1, 0)
)
_DEGREE = Bounds(minimum=0, also=(-1,))
_CONFIG = NotYet("it belongs to a kind of parallelism that is not available.", off=(None,))
_SWITCH = NotYet("it belongs to a kind of parallelism that is not available.")


@dataclass(frozen=True)
class ParallelArguments(Checked):
    """The 4D topology, under PaddleNLP's names; -1 and 1 both mean off."""

    tensor_parallel_degree: int = argument(
        -1, "Devices that share one layer.", "共同计算一层的设备数。", bounds=_DEGREE, rows=(4, 84)
    )
    pipeline_parallel_degree: int = argument(
        -1, "Devices that share the stack of layers.", "分担各层的设备数。", bounds=_DEGREE, rows=(5, 84)
    )
    sharding: Union[bool, str, None] = argument(
        "",
        "stage1, stage2 or stage3: devices with different rows share out optimizer state, gradients, weights; with "
        "offload beside it the state is in the machine's memory.",
        "stage1、stage2、stage3：数据不同的设备依次分担优化器状态、梯度、权重；再加 offload 时优化器状态放在主机内存。",
        rows=(3, 84, 124),
    )
    sharding_parallel_degree: int = argument(
        -1,
        "Devices that share out the state of sharding; -1: all that see different rows.",
        "分担 sharding 状态的设备数；-1：所有数据不同的设备。",
        aliases=("sharding_degree",),
        bounds=_DEGREE,
        rows=(84,),
    )
    sep_parallel_degree: int = argument(-1, "Devices that split a sequence.", "切分序列的设备数。", bounds=_DEGREE)
    context_parallel_degree: int = argument(
        -1, "Devices in a ring over a sequence.", "环形切分序列的设备数。", not_yet=_DATA_PARALLEL
    )
    expert_parallel_degree: int = argument(
        -1, "Devices that split experts.", "切分专家的设备数。", not_yet=_DATA_PARALLEL
    )
    expert_tensor_parallel_degree: int = argument(
        -1, "Devices that share one expert.", "共同计算一个专家的设备数。", not_yet=_DATA_PARALLEL
    )
    virtual_pp_degree: int = argument(
        1,
        "Parts of the stack on each pipeline device (interleaved schedule); 1: one.",
        "每个流水设备上的层段数（交错调度）；1：一段。",
        bounds=_DEGREE,
        rows=(5,),
    )
    sequence_parallel: bool = argument(
        False, "Split activations beside tensor parallel.", "随张量并行切分激活。", rows=(6,)
    )
    fuse_sequence_parallel_allreduce: bool = argument(
        False, "Fused all-reduce of sequence parallel.", "序列并行的融合 all-reduce。", not_yet=_SWITCH
    )
    tensor_parallel_output: bool = argument(False, "Leave logits split.", "logits 保持切分。", not_yet=_SWITCH)
    pp_recompute_interval: int = argument(
        1, "Layers between two recomputed ones in a pipeline.", "流水线中重算的层间隔。", not_yet=_SWITCH
    )
    tensor_parallel_config: str = argument("", "Options of tensor parallel.", "张量并行的选项。", not_yet=_CONFIG)
    pipeline_parallel_config: str = argument("", "Options of pipeline parallel.", "流水并行的选项。", not_yet=_CONFIG)
    sharding_parallel_config: str = argument("", "Options of sharding.", "切分并行的选项。", not_yet=_CONFIG)
    sequence_parallel_config: str = argument("", "Options of sequence parallel.", "序列并行的选项。", not_yet=_CONFIG)
    data_parallel_config: str = argument("", "Options of data parallel.", "数据并行的选项。", not_yet=_CONFIG)
    deepspeed: Optional[str] = argument(
        None,
        "DeepSpeed configuration file.",
        "DeepSpeed 配置文件。",
        not_yet=NotYet(
            "there is no second file: max_grad_norm, warmup_steps, scale_loss, bf16 and fp16 stand in this one."
        ),
        rows=(124,),
    )
