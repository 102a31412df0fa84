"""Which model, from where, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from paddle_sft.arguments.fields import NOT_NEGATIVE, Bounds, Checked, Choices, NotYet, argument
from paddle_sft.arguments.hub import hub_key

_FUSED = NotYet("the model's own operators are used.", off=(False,))
_HUB = NotYet("copy the output folder to the hub yourself.", off=(False, None))
STRATEGIES = (
    "RotaryEmbedding",
    "LinearScalingRotaryEmbedding",
    "NTKScalingRotaryEmbedding",
    "DynamicNTKScalingRotaryEmbedding",
    "YaRNScalingRotaryEmbedding",
)
"""PaddleNLP's names for what `models.long_context` knows."""
NO_ALIBI = (
    "it puts ALiBi in the place of the positions that the model was trained with; choose one of embedding_strategies, "
    "or a bloom model, which has ALiBi by itself"
)


@dataclass(frozen=True)
class ModelArguments(Checked):
    """The base model, its tokenizer, and options of its forward pass."""

    model_name_or_path: Optional[str] = argument(
        None,
        "Model to continue from: a folder in PaddleNLP or Hugging Face layout, or a name in PaddleNLP's registry, or "
        "on the hub that a key from_... below chooses.",
        "要继续训练的模型：PaddleNLP 或 Hugging Face 格式的目录，"
        "或 PaddleNLP 注册表（或下面 from_... 键所选 hub）中的名字。",
        rows=(45, 86, 98, 113, 183),
    )
    config_name: Optional[str] = argument(
        None,
        "Train from scratch: folder or file with the model's config.json. Give this or model_name_or_path, not both.",
        "从零训练：含 config.json 的目录或该文件。与 model_name_or_path 二选一。",
        rows=(97, 98, 99, 113),
    )
    tokenizer_name_or_path: Optional[str] = argument(
        None,
        "Tokenizer folder or name when it is not the model's own.",
        "分词器与模型不同时，其目录或名字。",
        aliases=("tokenizer_name",),
        rows=(113, 183),
    )
    new_special_tokens: Optional[List[str]] = argument(
        None,
        "Special tokens that the tokenizer gets; embedding and LM head grow where they must, new rows are the mean of "
        "the old ones. With lora they are not trained.",
        "为分词器新增的特殊词；词嵌入与输出层按需增大，新行取原有各行的平均值。使用 lora 时这些行不参与训练。",
        aliases=("add_special_tokens",),
    )
    resize_vocab: bool = argument(
        False,
        "Let embedding and LM head grow to the tokenizer's size, for tokens that were added to it before. "
        "new_special_tokens does so by itself.",
        "让词嵌入与输出层增大到分词器的大小，用于之前已加入分词器的词。new_special_tokens 会自行如此。",
    )
    dtype: str = argument(
        "auto",
        "Type the weights are loaded in. auto: bfloat16 or float16 when bf16 or fp16 is on with fp16_opt_level O2, "
        "float32 otherwise and always on a CPU.",
        "权重加载的类型。auto：bf16/fp16 且 fp16_opt_level 为 O2 时用半精度，否则（以及在 CPU 上）用 float32。",
        aliases=("torch_dtype",),
        choices=("auto", "float32", "bfloat16", "float16"),
        rows=(114, 184),
    )
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    neftune: bool = argument(
        False,
        "NEFTune: uniform noise on the embeddings while training (not while evaluating).",
        "NEFTune：训练时（评估时不加）在词嵌入上加均匀噪声。",
        rows=(21, 53),
    )
    neftune_noise_alpha: float = argument(
        5.0,
        "Strength of the NEFTune noise: alpha / sqrt(tokens * hidden size) is the largest change.",
        "NEFTune 噪声强度：最大改变量为 alpha / sqrt(token 数 * 隐藏维度)。",
        bounds=NOT_NEGATIVE,
        rows=(53,),
    )
    use_flash_attention: Optional[bool] = argument(
        None,
        "Let Paddle's FlashAttention kernel compute attention; null: wherever it can (a GPU, half precision, no ALiBi, "
        "no soft cap). What else computes gives the same numbers; the plan says which it is.",
        "由 Paddle 的 FlashAttention 内核计算注意力；null：能用就用（GPU、半精度、无 ALiBi、无 soft cap）。"
        "其他方式得到相同的数值；运行计划会写明用哪一种。",
        rows=(11, 46, 184),
    )
    flash_mask: Optional[bool] = argument(
        None,
        "Let that kernel compute packed rows too, masked by one number a token (FlashMask); null: wherever it can. "
        "Needs packing and use_flash_attention.",
        "打包的行也由该内核计算，掩码为每个 token 一个数（FlashMask）；"
        "null：能用就用。需要打包与 use_flash_attention。",
        rows=(12, 47),
    )
    use_long_sequence_strategies: bool = argument(
        False,
        "Extend the model's context by scaling its rotary positions; needs strategy_name and rope_scaling_factor.",
        "通过缩放旋转位置编码扩展模型的上下文；需要 strategy_name 与 rope_scaling_factor。",
        rows=(27, 58),
    )
    strategy_type: Optional[str] = argument(
        None,
        "Kind of long-sequence strategy, as PaddleNLP names it: embedding_strategies is the one there is.",
        "PaddleNLP 所称的长序列策略类型：只有 embedding_strategies。",
        choices=Choices(("embedding_strategies",), refused={"attention_strategies": NO_ALIBI}),
        rows=(59,),
    )
    strategy_name: Optional[str] = argument(
        None,
        "How positions are scaled, as PaddleNLP names it: linearly, by NTK (fixed, or growing with the text), by YaRN.",
        "位置如何缩放（PaddleNLP 的名称）：线性、NTK（固定，或随文本增长）、YaRN。",
        choices=Choices(STRATEGIES, refused={"AttentionWithLinearBias": NO_ALIBI}),
        rows=(60,),
    )
    rope_scaling_factor: float = argument(
        1.0,
        "How many times longer the context becomes.",
        "上下文变长的倍数。",
        bounds=Bounds(minimum=1),
        rows=(61,),
    )
    use_liger: bool = argument(
        False,
        "Liger kernels (Triton kernels for torch).",
        "Liger 内核（torch 的 Triton 内核）。",
        aliases=("use_liger_kernel",),
        not_yet=NotYet("they are written for torch and have no Paddle version."),
        rows=(184,),
    )
    model_revision: Optional[str] = argument(
        None,
        "Branch, tag or commit of the model on its hub.",
        "模型在 hub 上的分支、标签或提交。",
        not_yet=NotYet("download that revision to a folder and give the folder.", off=("main",)),
        rows=(183,),
    )
    trust_remote_code: bool = argument(
        False,
        "Run Python code that comes with a model.",
        "运行模型自带的 Python 代码。",
        not_yet=NotYet("code from a model folder is never run; use a family that PaddleNLP has."),
        rows=(95,),
    )
    continue_training: bool = argument(
        True,
        "Start from the model's weights.",
        "从模型权重开始训练。",
        not_yet=NotYet("to train from scratch give config_name instead of model_name_or_path."),
    )
    use_fused_rms_norm: bool = argument(False, "Fused RMSNorm on a GPU.", "GPU 上的融合 RMSNorm。", not_yet=_FUSED)
    use_fused_rope: bool = argument(False, "Fused RoPE on a GPU.", "GPU 上的融合 RoPE。", not_yet=_FUSED)
    use_fused_linear: bool = argument(False, "Fused linear layer (GPT).", "融合线性层（GPT）。", not_yet=_FUSED)
    use_fused_dropout_add: bool = argument(
        False, "Fused dropout and addition (GPT).", "融合 dropout 与加法（GPT）。", not_yet=_FUSED
    )
    use_fused_linear_cross_entropy: bool = argument(
        False, "Fused output layer and cross entropy.", "融合输出层与交叉熵。", not_yet=_FUSED
    )
    use_fast_layer_norm: bool = argument(False, "Fast layer norm (GPT).", "快速 LayerNorm（GPT）。", not_yet=_FUSED)
    fuse_attention_qkv: Optional[bool] = argument(
        None, "Query, key and value in one product.", "把 Q、K、V 合成一次乘法。", not_yet=_FUSED
    )
    fuse_attention_ffn: Optional[bool] = argument(
        None, "Gate and up projection in one product.", "把 gate 与 up 投影合成一次乘法。", not_yet=_FUSED
    )
    hidden_dropout_prob: float = argument(
        0.1,
        "Dropout of GPT-like models.",
        "GPT 类模型的 dropout。",
        not_yet=NotYet("edit the model's config.json.", off=(0.0,)),
    )
    attention_probs_dropout_prob: float = argument(
        0.1,
        "Attention dropout of GPT-like models.",
        "GPT 类模型的注意力 dropout。",
        not_yet=NotYet("edit the model's config.json.", off=(0.0,)),
    )
    push_to_hub: bool = argument(
        False, "Upload the result to a hub.", "把结果上传到 hub。", not_yet=_HUB, rows=(175, 192)
    )
    hub_model_id: Optional[str] = argument(None, "Name on the hub.", "在 hub 上的名字。", not_yet=_HUB, rows=(192,))
    hub_strategy: str = argument("every_save", "When to upload.", "何时上传。", not_yet=_HUB, rows=(192,))
    hub_token: Optional[str] = argument(None, "Token for the hub.", "hub 的令牌。", not_yet=_HUB)
    hub_private_repo: Optional[bool] = argument(None, "Private on the hub.", "在 hub 上私有。", not_yet=_HUB)
    save_to_aistudio: bool = argument(
        False, "Upload the result to AI Studio.", "把结果上传到 AI Studio。", not_yet=_HUB
    )
    aistudio_repo_id: Optional[str] = argument(None, "Name on AI Studio.", "在 AI Studio 上的名字。", not_yet=_HUB)
    aistudio_repo_private: bool = argument(
        True, "Private on AI Studio.", "在 AI Studio 上私有。", not_yet=NotYet(_HUB.instead)
    )
    aistudio_repo_license: str = argument(
        "Apache License 2.0", "Licence on AI Studio.", "在 AI Studio 上的许可证。", not_yet=_HUB
    )
    aistudio_token: Optional[str] = argument(None, "Token for AI Studio.", "AI Studio 的令牌。", not_yet=_HUB)
