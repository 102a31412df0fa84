"""Which samples, and how they become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import POSITIVE, Bounds, Checked, NotYet, argument

_REGISTRY = NotYet("give the folder or file itself with dataset_name_or_path.", off=(None,))
_GENERATION = NotYet("evaluation measures the loss; use paddle-sft generate after training.")


@dataclass(frozen=True)
class DataArguments(Checked):
    """The data set and the lengths."""

    dataset_name_or_path: Optional[Union[str, List[str]]] = argument(
        None,
        "Folder with train.json or train/*.json and dev.json or dev/*.json, one file, a pattern, or a list of these. "
        "JSON lines, a JSON array, CSV or Parquet; JSON and CSV also as .gz or .zst.",
        "数据目录（含 train.json 或 train/*.json、dev.json 或 dev/*.json）、单个文件、通配模式，或它们的列表。"
        "JSON lines、JSON 数组、CSV 或 Parquet；JSON 与 CSV 也可为 .gz、.zst。",
        aliases=("dataset_id_or_path", "task_name_or_path"),
        rows=(62, 185),
    )
    data_format: Optional[str] = argument(
        None,
        "Format of the rows; null: told from each row. docs/data_formats has a page for each.",
        "数据行的格式；null：由每一行判断。docs/data_formats 中每种格式一页。",
        choices=("src_tgt", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference",
                 "response_sort", "kto"),
        rows=(39, 101, 127, 178, 179, 221),
    )
    columns: Optional[List[str]] = argument(
        None,
        "Names that the data has for our keys: src=question,tgt=answer.",
        "数据中与我们的键对应的名字：src=question,tgt=answer。",
    )
    train_on_prompt: bool = argument(
        False, "Train on the prompts too, not only on the answers.", "提示也训练，而不只是回答。"
    )
    mask_history: bool = argument(
        False, "Train on the last answer of a conversation only.", "只训练对话的最后一个回答。"
    )
    src_length: int = argument(
        1024,
        "Most tokens of the source (prompt). Not used by stage pretrain.",
        "源文本（提示）的最大 token 数。pretrain 阶段不用。",
        bounds=POSITIVE,
        rows=(65,),
    )
    max_length: int = argument(
        2048,
        "Most tokens of a whole sample; in stage pretrain the length of a block.",
        "整条样本的最大 token 数；pretrain 阶段为块长。",
        aliases=("max_seq_length", "cutoff_len", "block_size"),
        bounds=Bounds(minimum=2),
        rows=(66, 104, 115, 185),
    )
    length_policy: str = argument(
        "truncate_source",
        "What happens to a sample that is too long: truncate_source cuts the source to src_length, then the whole to "
        "max_length; truncate_right and truncate_left cut one end; split makes several samples of it; drop leaves it "
        "out; error stops.",
        "样本过长时怎么办：truncate_source 先把源文本截到 src_length，再把整条截到 max_length；truncate_right、"
        "truncate_left 截一端；split 拆成多条；drop 丢弃；error 停止。",
        choices=("truncate_source", "truncate_right", "truncate_left", "split", "drop", "error"),
    )
    autoregressive: bool = argument(
        False,
        "Train on every token of the text; the same as stage pretrain.",
        "对文本的每个 token训练；等同于 stage pretrain。",
        rows=(28, 68),
    )
    max_samples: Optional[int] = argument(
        None,
        "Use only the first samples of each split; null uses all.",
        "每个部分只用最前面的若干样本；null 表示全部。",
        bounds=POSITIVE,
        rows=(102, 162),
    )
    template: str = argument(
        "default",
        "How a conversation becomes text. default: source and target as they stand; auto: the model's own chat "
        "template; alpaca vicuna llama2 llama3 chatml qwen mistral gemma chatglm baichuan deepseek deepseek3; or a "
        "template file.",
        "对话如何变成文本。default：源文本与目标文本原样；auto：模型自带的对话模板；alpaca vicuna llama2 llama3 chatml "
        "qwen mistral gemma chatglm baichuan deepseek deepseek3；或模板文件。",
        rows=(128, 134, 154),
    )
    overwrite_cache: bool = argument(
        False,
        "Tokenise again rather than use an old result. Always so at present: nothing is cached between runs.",
        "重新分词，不用旧结果。目前总是如此：运行之间没有缓存。",
        rows=(157,),
    )
    preprocessing_num_workers: Optional[int] = argument(
        None,
        "Processes that tokenise; null: one.",
        "分词的进程数；null：一个。",
        aliases=("dataset_num_proc",),
        bounds=POSITIVE,
        rows=(103, 115),
    )
    dataset: Optional[Union[str, List[str]]] = argument(
        None, "Names in a registry of data sets.", "数据集登记表中的名字。", rows=(153,)
    )
    dataset_dir: Optional[str] = argument(
        None, "Folder of a registry of data sets.", "数据集登记表所在目录。"
    )
    task_name: Optional[str] = argument(None, "Subset of a built-in data set.", "内置数据集的子集。", not_yet=_REGISTRY)
    zero_padding: bool = argument(
        False,
        "Pack several samples into a row; the same as packing best_fit.",
        "把多个样本打包进一行；等同于 packing best_fit。",
        aliases=("intokens",),
        rows=(13, 63),
    )
    greedy_zero_padding: bool = argument(
        False,
        "With zero_padding: pack greedily over a buffer; the same as packing greedy.",
        "与 zero_padding 一起：在缓冲区内贪心打包；等同于 packing greedy。",
        rows=(14, 64),
    )
    packing: Optional[Union[bool, str]] = argument(
        None,
        "Rows of max_length tokens that hold several samples, each seeing only itself: none, sequential, greedy or "
        "best_fit (true means best_fit; null: what zero_padding says).",
        "每行 max_length 个词、容纳多个样本且互不可见：none、sequential、greedy 或 best_fit"
        "（true 即 best_fit；null：由 zero_padding 决定）。",
        rows=(13, 14, 185),
    )
    lazy: bool = argument(
        False,
        "Read samples while training instead of before.",
        "边训练边读样本。",
        aliases=("streaming",),
        not_yet=NotYet("all samples are read at start; use max_samples for a smaller run."),
        rows=(67,),
    )
    use_pose_convert: bool = argument(
        False,
        "PoSE: skip positions to train for a longer context.",
        "PoSE：跳过位置以训练更长的上下文。",
        not_yet=NotYet("train at the length that you need with max_length."),
        rows=(26, 69),
    )
    eval_with_do_generation: bool = argument(
        False, "Evaluate by generating.", "用生成来评估。", not_yet=_GENERATION, rows=(29, 70)
    )
    save_generation_output: bool = argument(
        False, "Save what evaluation generated.", "保存评估时生成的文本。", not_yet=_GENERATION
    )
    chat_template: Optional[str] = argument(
        None,
        "File with a chat template.",
        "对话模板文件。",
        not_yet=NotYet("write the template's marks into src and tgt."),
    )
    pad_to_multiple_of: Optional[int] = argument(
        None, "Round row lengths up.", "把行长向上取整。", not_yet=NotYet("rows are as long as their longest sample.")
    )
    pad_to_max_length: bool = argument(
        False,
        "Pad every row to max_length.",
        "把每行补到 max_length。",
        not_yet=NotYet("rows are as long as their longest sample."),
    )
