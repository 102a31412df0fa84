"""The keys of the methods that change the model as a whole: prompts, prefixes, hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import DROPOUT, POSITIVE, Checked, Choices, argument

INTERVENTION_TYPES = (
    "LoreftIntervention", "DireftIntervention", "NodireftIntervention", "NoreftIntervention", "ConsreftIntervention",
    "LobireftIntervention", "TinyIntervention",
)  # fmt: skip
ACTIVATION_FUNCTIONS = ("linear", "relu", "gelu", "silu", "tanh", "sigmoid")


@dataclass(frozen=True)
class ModelKeys(Checked):
    """Methods that change the model as a whole."""

    num_virtual_tokens: Optional[int] = argument(
        None,
        "Prompt tuning, P-tuning and prefix tuning: trained tokens before every sample; null: 20, for prefix tuning "
        "128.",
        "提示微调、P-tuning、前缀微调：每条样本前训练的虚拟 token 数；null：20，前缀微调为 128。",
        aliases=("num_prefix_tokens",),
        bounds=POSITIVE,
        rows=(136,),
    )
    prompt_tuning_init: str = argument(
        "vocabulary",
        "Prompt tuning: the tokens start as tokens drawn from the vocabulary, as those of prompt_tuning_init_text, or "
        "at random.",
        "提示微调：虚拟 token 的初值取自词表中随机的 token、prompt_tuning_init_text 的 token，或随机数。",
        choices=Choices(
            ("vocabulary", "text", "random"),
            {"SAMPLE_VOCAB": "vocabulary", "TEXT": "text", "RANDOM": "random"},
        ),
    )
    prompt_tuning_init_text: Optional[str] = argument(
        None,
        "Prompt tuning: the text that prompt_tuning_init text starts from, repeated or cut to the number of tokens.",
        "提示微调：prompt_tuning_init 为 text 时的初始文本，按 token 数重复或截断。",
    )
    encoder_reparameterization_type: str = argument(
        "MLP",
        "P-tuning: the encoder that computes the virtual tokens while training.",
        "P-tuning：训练时计算虚拟 token 的编码器。",
        choices=("MLP", "LSTM"),
        rows=(137,),
    )
    encoder_hidden_size: Optional[int] = argument(
        None,
        "P-tuning and prefix tuning: inner width of the encoder; null: as wide as what it computes for one token.",
        "P-tuning 与前缀微调：编码器的内部宽度；null：与它为一个 token 计算的宽度相同。",
        aliases=("prefix_projection_hidden_size",),
        bounds=POSITIVE,
    )
    encoder_num_layers: int = argument(2, "P-tuning: layers of the LSTM.", "P-tuning：LSTM 的层数。", bounds=POSITIVE)
    encoder_dropout: float = argument(
        0.0, "P-tuning: dropout between the layers of the LSTM.", "P-tuning：LSTM 层间的 dropout。", bounds=DROPOUT
    )
    prefix_tuning: bool = argument(
        False, "The same as adapter prefix_tuning.", "等同于 adapter 为 prefix_tuning。", rows=(136, 218)
    )
    prefix_projection: bool = argument(
        True,
        "Prefix tuning: an MLP computes keys and values while training, and is dropped from the result.",
        "前缀微调：训练时由 MLP 计算键和值，结果中不保留 MLP。",
        rows=(218,),
    )
    reft: bool = argument(False, "The same as adapter reft.", "等同于 adapter 为 reft。", rows=(25,))
    layers: Union[str, List[int]] = argument(
        "all",
        "ReFT: decoder layers whose output is edited: all, or numbers from 0 (4,8,12).",
        "ReFT：编辑哪些解码层的输出：all，或从 0 开始的编号（4,8,12）。",
        rows=(87,),
    )
    position: str = argument(
        "f7+l7",
        "ReFT: tokens of each prompt that are edited: f7, the first 7; l7, the last 7; f7+l7, both.",
        "ReFT：编辑每个提示词的哪些 token：f7 为前 7 个；l7 为后 7 个；f7+l7 为两者。",
        rows=(88,),
    )
    intervention_type: str = argument(
        "LoreftIntervention", "ReFT: kind of edit.", "ReFT：编辑的种类。", choices=INTERVENTION_TYPES, rows=(89,)
    )
    rank: int = argument(
        8, "ReFT: rank (LoRA's is lora_rank).", "ReFT：秩（LoRA 用 lora_rank）。", bounds=POSITIVE, rows=(90,)
    )
    act_fn: str = argument("linear", "ReFT: activation.", "ReFT：激活函数。", choices=ACTIVATION_FUNCTIONS, rows=(91,))
    add_bias: bool = argument(
        False, "ReFT: a bias of NoreftIntervention's projection.", "ReFT：NoreftIntervention 的投影加偏置。", rows=(92,)
    )
    dropout: float = argument(
        0.0,
        "ReFT: dropout of edited hidden states (LoRA's is lora_dropout).",
        "ReFT：编辑后隐藏状态的 dropout（LoRA 用 lora_dropout）。",
        bounds=DROPOUT,
        rows=(93,),
    )
    share_weights: bool = argument(
        False,
        "ReFT: the first and the last tokens of a prompt share an edit.",
        "ReFT：提示词开头与结尾的 token 共用一个编辑。",
    )
