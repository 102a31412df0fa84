"""The run: what it does, for how long, at what learning rate, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import (
    ABOVE_ZERO,
    DEVICES,
    DROPOUT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_OFF,
    Checked,
    Choices,
    NotYet,
    argument,
)

_METRICS = ("loss", "perplexity", "accuracy", "f1")
_STAGE_LATER = "the stages are sft, pretrain and classification"
_OPTIMIZER_LATER = "use adamw or adafactor"
_RECOMPUTE = NotYet('"recompute": true recomputes whole layers.')


@dataclass(frozen=True)
class TrainArguments(Checked):
    """PaddleNLP's TrainingArguments that this suite honours itself, and a few of its own."""

    stage: str = argument(
        "sft",
        "sft: train on the target of src/tgt pairs; pretrain: train on every token of the text; classification: train "
        "a head that tells the label of a text.",
        "sft：训练 src/tgt 对中的目标；pretrain：训练文本的每个 token；classification：训练判断文本标签的分类头。",
        choices=Choices(
            ("sft", "pretrain", "classification"),
            synonyms={"pt": "pretrain"},
            refused={name: _STAGE_LATER for name in ("rm", "ppo", "dpo", "kto", "simpo", "orpo", "reward")},
        ),
        rows=(94, 96, 126, 151),
    )
    output_dir: Optional[str] = argument(
        None,
        "Folder for checkpoints, the result and reports. Required.",
        "存放检查点、结果与报告的目录。必填。",
        rows=(72, 157),
    )
    overwrite_output_dir: bool = argument(
        False,
        "Start afresh although output_dir is not empty; without it a run goes on from the last checkpoint there.",
        "output_dir 不为空也重新开始；否则从其中最后的检查点继续。",
        rows=(117,),
    )
    do_train: bool = argument(False, "Train.", "训练。", rows=(82, 152))
    do_eval: bool = argument(False, "Measure the loss on the dev split.", "在 dev 部分上计算损失。", rows=(82, 152))
    do_predict: bool = argument(
        False,
        "Generate for the dev split when training is over; in stage classification, label it.",
        "训练结束后对 dev 部分生成；classification 阶段则为其打标签。",
        rows=(152,),
    )
    per_device_train_batch_size: int = argument(
        8, "Samples in one forward pass of one device.", "一个设备一次前向的样本数。", bounds=POSITIVE, rows=(73, 158)
    )
    per_device_eval_batch_size: int = argument(
        8, "Samples in one evaluation pass of one device.", "一个设备一次评估的样本数。", bounds=POSITIVE, rows=(74,)
    )
    gradient_accumulation_steps: int = argument(
        1, "Forward passes for one optimizer step.", "每次优化器更新的前向次数。", bounds=POSITIVE, rows=(73, 158)
    )
    global_batch_size: Optional[int] = argument(
        None,
        "Samples of one optimizer step over all ranks, in place of gradient_accumulation_steps, which follows from it: "
        "for runs whose number of ranks may change.",
        "所有进程一次优化器更新的样本数，代替 gradient_accumulation_steps（由它推出）：用于进程数可能变化的训练。",
        bounds=POSITIVE,
    )
    num_train_epochs: float = argument(
        3.0,
        "Times the data set is seen; may be a fraction.",
        "数据集的遍数，可为小数。",
        bounds=ABOVE_ZERO,
        rows=(75, 161),
    )
    max_steps: int = argument(
        -1,
        "Optimizer steps; above 0 it wins over num_train_epochs.",
        "优化器步数；大于 0 时优先于 num_train_epochs。",
        bounds=POSITIVE_OR_OFF,
        rows=(85,),
    )
    learning_rate: float = argument(5e-5, "Highest learning rate.", "最大学习率。", bounds=NOT_NEGATIVE, rows=(76, 161))
    weight_decay: float = argument(
        0.0,
        "Weight decay, not on biases and norms.",
        "权重衰减，不含偏置与归一化层。",
        bounds=NOT_NEGATIVE,
        rows=(204,),
    )
    adam_beta1: float = argument(0.9, "AdamW's first decay.", "AdamW 的一阶衰减。", bounds=DROPOUT)
    adam_beta2: float = argument(0.999, "AdamW's second decay.", "AdamW 的二阶衰减。", bounds=DROPOUT)
    adam_epsilon: float = argument(1e-8, "AdamW's epsilon.", "AdamW 的 epsilon。", bounds=NOT_NEGATIVE)
    optim: str = argument(
        "adamw",
        "Optimizer.",
        "优化器。",
        choices=Choices(
            ("adamw", "adafactor"),
            refused={name: _OPTIMIZER_LATER for name in ("adamw_mini", "adamw_custom", "adamw_16bit_moment")},
        ),
        rows=(203,),
    )
    max_grad_norm: float = argument(
        1.0,
        "Gradients are scaled down to this global norm; 0 switches it off.",
        "梯度按全局范数裁剪到此值；0 表示不裁剪。",
        aliases=("gradient_clipping",),
        bounds=NOT_NEGATIVE,
        rows=(124, 204),
    )
    nonfinite_step: str = argument(
        "stop",
        "What happens to a step whose loss or gradient is NaN or infinite. It is never applied, and its samples are "
        "named; stop ends the run, skip goes on with the next step.",
        "损失或梯度为 NaN 或无穷的一步如何处理。这一步不会生效，并指明其样本；stop 结束运行，skip 继续下一步。",
        choices=("stop", "skip"),
    )
    max_nonfinite_steps: int = argument(
        5,
        "Steps in a row that nonfinite_step skip may skip; one more ends the run.",
        "nonfinite_step 为 skip 时允许连续跳过的步数；再多一步则结束运行。",
        bounds=POSITIVE,
    )
    hang_timeout: int = argument(
        1800,
        "Seconds without progress on any rank after which the run ends with exit code 124 and the name of the rank "
        "that holds it up; saving may take longer. 0: never.",
        "所有进程都没有进展达到此秒数后，运行以退出码 124 结束并指出卡住的进程；保存可以更久。0：从不。",
        bounds=NOT_NEGATIVE,
    )
    lr_scheduler_type: str = argument(
        "linear",
        "How the learning rate falls after warm-up; constant has no warm-up.",
        "预热之后学习率如何下降；constant 没有预热。",
        choices=("linear", "cosine", "constant", "constant_with_warmup", "polynomial"),
        rows=(159, 190),
    )
    warmup_steps: int = argument(
        0,
        "Optimizer steps from 0 to learning_rate; above 0 it wins over warmup_ratio.",
        "学习率从 0 升到 learning_rate 的步数；大于 0 时优先于 warmup_ratio。",
        bounds=NOT_NEGATIVE,
        rows=(77, 123, 124),
    )
    warmup_ratio: float = argument(
        0.0, "Warm-up as a share of all steps.", "预热占总步数的比例。", bounds=FRACTION, rows=(77, 190)
    )
    num_cycles: float = argument(0.5, "Waves of the cosine schedule.", "cosine 的波数。", bounds=ABOVE_ZERO)
    lr_end: float = argument(
        1e-7, "Last learning rate of the polynomial schedule.", "polynomial 的最终学习率。", bounds=NOT_NEGATIVE
    )
    power: float = argument(1.0, "Power of the polynomial schedule.", "polynomial 的幂。", bounds=ABOVE_ZERO)
    min_learning_rate: Optional[float] = argument(
        None,
        "Lowest learning rate of a schedule.",
        "学习率的下限。",
        not_yet=NotYet('"lr_scheduler_type": "polynomial" ends at lr_end.', off=(0.0,)),
    )
    decay_steps: Optional[int] = argument(
        None,
        "Steps until the lowest learning rate.",
        "到达学习率下限的步数。",
        not_yet=NotYet("the schedule spans the whole run.", off=(0,)),
    )
    logging_steps: int = argument(
        500, "Optimizer steps between two log lines.", "两次日志之间的步数。", bounds=POSITIVE, rows=(106, 160, 191)
    )
    logging_strategy: str = argument(
        "steps", "When to log.", "何时记录日志。", choices=("no", "steps", "epoch"), rows=(123, 191)
    )
    logging_dir: Optional[str] = argument(
        None,
        "Folder for report_to's files; null: runs/ in output_dir.",
        "report_to 文件的目录；null：output_dir 下的 runs/。",
        rows=(123,),
    )
    log_level: str = argument(
        "info",
        "Least severe message that is printed.",
        "打印的最低日志级别。",
        choices=("debug", "info", "warning", "error"),
        rows=(116,),
    )
    report_to: List[str] = argument(
        [],
        "Loggers beside the console: visualdl, tensorboard, wandb; none (the default) is no logger.",
        "控制台之外的记录器：visualdl、tensorboard、wandb；none（默认）为不用。",
        choices=Choices(
            ("visualdl", "tensorboard", "wandb", "none"),
            refused={
                "all": "name the loggers: visualdl, tensorboard, wandb",
                "autonlp": "use visualdl, tensorboard or wandb",
                "swanlab": "use visualdl, tensorboard or wandb",
            },
        ),
        rows=(110, 121, 191),
    )
    run_name: Optional[str] = argument(
        None, "Name of the run in a logger; null: output_dir.", "记录器中的运行名；null：output_dir。", rows=(121,)
    )
    plot_loss: bool = argument(
        False, "Draw the loss to loss.png in output_dir.", "把损失画到 output_dir 的 loss.png。", rows=(163,)
    )
    disable_tqdm: Optional[bool] = argument(False, "No progress bars.", "不显示进度条。")
    evaluation_strategy: str = argument(
        "no",
        "When to evaluate while training; no with do_eval evaluates once at the end.",
        "训练中何时评估；no 且 do_eval 时只在结束后评估一次。",
        aliases=("eval_strategy",),
        choices=("no", "steps", "epoch"),
        rows=(78,),
    )
    eval_at_start: bool = argument(
        False,
        "Evaluate once before the first step, to see what training changes.",
        "第一步之前先评估一次，以便看出训练的效果。",
        aliases=("eval_on_start",),
    )
    eval_steps: Optional[int] = argument(
        None,
        "Optimizer steps between two evaluations; null: logging_steps.",
        "两次评估之间的步数；null：logging_steps。",
        bounds=POSITIVE,
        rows=(78,),
    )
    save_strategy: str = argument(
        "steps",
        "When to save a checkpoint; the result is saved at the end in any case.",
        "何时保存检查点；结束时总会保存结果。",
        choices=("no", "steps", "epoch"),
        rows=(79, 191),
    )
    save_steps: int = argument(
        500, "Optimizer steps between two checkpoints.", "两个检查点之间的步数。", bounds=POSITIVE, rows=(106, 160)
    )
    save_total_limit: Optional[int] = argument(
        None,
        "Checkpoints that are kept; null keeps all.",
        "保留的检查点数；null 保留全部。",
        bounds=POSITIVE,
        rows=(123,),
    )
    use_async_save: bool = argument(
        False,
        "Copy a checkpoint to memory and write it while training goes on; needs memory for one on the first rank.",
        "先把检查点复制到内存，边训练边写盘；首个进程需要能放下一个检查点的内存。",
    )
    load_best_model_at_end: bool = argument(
        False, "The result is the best checkpoint, not the last.", "结果取最好的检查点，而不是最后的。"
    )
    metric_for_best_model: Optional[str] = argument(
        None,
        "What makes a checkpoint the best; null: loss. Each may be written with eval_ before it. Of one dev set: "
        "NAME_loss.",
        "以什么判断最好；null：loss。前面都可以加 eval_。某个开发集的指标写作 NAME_loss。",
        choices=Choices(
            (*_METRICS, *(f"eval_{metric}" for metric in _METRICS)), pattern=rf"[\w.-]+_({'|'.join(_METRICS)})"
        ),
    )
    greater_is_better: Optional[bool] = argument(
        None,
        "Whether more of that metric is better; null: yes for accuracy only.",
        "该指标是否越大越好；null：仅 accuracy 为是。",
    )
    early_stopping: bool = argument(
        False,
        "Stop when the metric no longer improves; needs load_best_model_at_end.",
        "指标不再改进时停止；需要 load_best_model_at_end。",
    )
    early_stopping_patience: int = argument(
        1, "Evaluations without improvement before stopping.", "停止前允许没有改进的评估次数。", bounds=POSITIVE
    )
    early_stopping_threshold: float = argument(
        0.0, "Least change that counts as an improvement.", "算作改进的最小变化。", bounds=NOT_NEGATIVE
    )
    resume_from_checkpoint: Optional[Union[bool, str]] = argument(
        None,
        "Checkpoint folder to go on from, or true for the last one in output_dir.",
        "从此检查点目录继续；true 为 output_dir 中最后一个。",
        rows=(117, 118, 125),
    )
    seed: int = argument(
        42,
        "Seed of data order, dropout and new weights.",
        "数据顺序、dropout 与新权重的随机种子。",
        bounds=NOT_NEGATIVE,
        rows=(119, 191),
    )
    shuffle: bool = argument(True, "New order of the samples in every epoch.", "每遍重新打乱样本。")
    bf16: bool = argument(False, "Mixed precision with bfloat16 (GPU).", "bfloat16 混合精度（GPU）。", rows=(80, 184))
    fp16: bool = argument(False, "Mixed precision with float16 (GPU).", "float16 混合精度（GPU）。", rows=(80, 164))
    fp16_opt_level: str = argument(
        "O1",
        "O1: products in half precision; O2: the weights as well; O0: off. Needs bf16 or fp16.",
        "O1：乘法用半精度；O2：权重也用；O0：关闭。需要 bf16 或 fp16。",
        choices=("O0", "O1", "O2"),
        rows=(81,),
    )
    tf32: Optional[bool] = argument(
        None,
        "TensorFloat-32 products on a GPU.",
        "在 GPU 上用 TensorFloat-32。",
        not_yet=NotYet('use "bf16": true.', off=(False,)),
        rows=(184,),
    )
    recompute: bool = argument(
        False,
        "Compute activations again in the backward pass: less memory, about a third more time.",
        "反向时重算激活：省内存，时间约多三分之一。",
        aliases=("gradient_checkpointing",),
        rows=(83, 106, 189),
    )
    recompute_use_reentrant: bool = argument(
        False,
        "Recompute through a PyLayer.",
        "用 PyLayer 方式重算。",
        aliases=("gradient_checkpointing_kwargs.use_reentrant",),
        not_yet=_RECOMPUTE,
        rows=(189,),
    )
    recompute_granularity: str = argument(
        "full",
        "What recompute computes again: full, whole layers; full_attn, their attention with its projections; "
        "core_attn, scores and weights alone.",
        "recompute 重算什么：full 为整层；full_attn 为注意力及其投影；core_attn 仅为注意力分数与权重。",
        choices=("full", "full_attn", "core_attn"),
    )
    refined_recompute: str = argument("", "Operators that are not recomputed.", "不重算的算子。", not_yet=_RECOMPUTE)
    offload_recompute_inputs: bool = argument(
        False,
        "Keep the inputs of recomputed layers in host memory.",
        "把重算层的输入放在主机内存。",
        not_yet=_RECOMPUTE,
    )
    device: Optional[str] = argument(
        None,
        "gpu, cpu or gpu:N; null: gpu if there is one. Without a GPU the run goes to the CPU and says so.",
        "gpu、cpu 或 gpu:N；null：有 GPU 就用。没有 GPU 时转到 CPU 并说明。",
        choices=DEVICES,
        rows=(43,),
    )
    profile: bool = argument(
        False,
        "Write where the time of a step goes, operator by operator, to profile.txt and profile.json in output_dir.",
        "把一步的时间花在哪些算子上写到 output_dir 的 profile.txt 与 profile.json。",
    )
    profile_steps: int = argument(
        3,
        "Steps that profile looks at; the first step of a run is left out.",
        "profile 统计的步数；不含运行的第一步。",
        bounds=POSITIVE,
    )
    benchmark: bool = argument(
        False,
        "PaddleNLP's speed test.",
        "PaddleNLP 的测速模式。",
        not_yet=NotYet("set max_steps and read tokens per second in train_results.json."),
    )
    autotuner_benchmark: bool = argument(
        False,
        "PaddleNLP's speed test for its tuner.",
        "PaddleNLP 调优器的测速模式。",
        not_yet=NotYet("set max_steps and read tokens per second in train_results.json."),
    )
