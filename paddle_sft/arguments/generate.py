"""How text is sampled: while evaluating a run, and by paddle-sft generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import ABOVE_ZERO, DEVICES, NOT_NEGATIVE, POSITIVE, Bounds, Checked, NotYet, argument
from paddle_sft.arguments.hub import hub_key

_EVALUATION = NotYet("evaluation measures the loss; use paddle-sft generate, which has this key.")
_TOP_P = Bounds(minimum=0, maximum=1, strict_minimum=True)


@dataclass(frozen=True)
class GenerateArguments(Checked):
    """Sampling of an evaluation by generation (eval_with_do_generation) in a fine-tuning run."""

    top_k: int = argument(
        1, "Draw from the k likeliest tokens.", "从最可能的 k 个 token中抽取。", not_yet=_EVALUATION, rows=(71,)
    )
    top_p: float = argument(
        1.0,
        "Draw from the likeliest tokens that make up p.",
        "从累计概率为 p 的 token中抽取。",
        not_yet=_EVALUATION,
        rows=(71,),
    )


@dataclass(frozen=True)
class GenerateCommandArguments(Checked):
    """What paddle-sft generate does."""

    model_name_or_path: Optional[str] = argument(None, "Model folder or name. Required.", "模型目录或名字。必填。")
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    lora_path: Optional[str] = argument(
        None,
        "Adapter, folder or name: of this suite, of PEFT or of PaddleNLP.",
        "适配器的目录或名字：本套件、PEFT 或 PaddleNLP 的。",
    )
    allow_other_base: bool = argument(
        False,
        "Put the adapter on a base of the same shapes and other weights than it was trained on; otherwise an error.",
        "允许把适配器用于形状相同但权重不同的基础模型；否则报错。",
    )
    prompt: Optional[Union[str, List[str]]] = argument(
        None, "One prompt, or several in quotes.", "一个提示，或加引号的多个提示。"
    )
    prompt_file: Optional[str] = argument(
        None, "JSON lines with src, in place of prompt.", "含 src 的 JSON lines 文件，代替 prompt。"
    )
    output_file: Optional[str] = argument(
        None, "JSON lines to write; null prints only.", "写出的 JSON lines 文件；null 只打印。"
    )
    max_new_tokens: int = argument(128, "Most tokens to generate.", "最多生成的 token 数。", bounds=POSITIVE)
    template: str = argument(
        "default",
        "How a prompt is written, as in training: default, auto (the model's own), a built-in one, or a template file.",
        "提示的写法，与训练时相同：default、auto（模型自带）、内置模板或模板文件。",
    )
    do_sample: bool = argument(
        False, "Draw tokens at random; otherwise the likeliest is taken.", "随机抽取；否则取最可能的 token。"
    )
    top_k: int = argument(
        0,
        "Draw from the k likeliest tokens; 0: from all.",
        "从最可能的 k 个 token中抽取；0：全部。",
        bounds=NOT_NEGATIVE,
    )
    top_p: float = argument(
        1.0, "Draw from the likeliest tokens that make up p.", "从累计概率为 p 的 token中抽取。", bounds=_TOP_P
    )
    temperature: float = argument(
        1.0, "Below 1 likelier, above 1 more varied.", "小于 1 更确定，大于 1 更多样。", bounds=ABOVE_ZERO
    )
    repetition_penalty: float = argument(
        1.0, "Above 1 makes repetition less likely.", "大于 1 减少重复。", bounds=ABOVE_ZERO
    )
    seed: int = argument(42, "Seed of the draws.", "抽取的随机种子。", bounds=NOT_NEGATIVE)
    device: Optional[str] = argument(
        None, "gpu or cpu; null: gpu if there is one.", "gpu 或 cpu；null：有 GPU 就用。", choices=DEVICES
    )
    dtype: str = argument(
        "auto",
        "Type the weights are loaded in; auto: float32.",
        "权重加载的类型；auto：float32。",
        aliases=("torch_dtype",),
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    batch_size: int = argument(1, "Prompts at a time.", "一次处理的提示数。", bounds=POSITIVE)
