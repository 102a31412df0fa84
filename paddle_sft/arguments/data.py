"""Which samples, and how they become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Union

from paddle_sft.arguments.fields import NOT_NEGATIVE, POSITIVE, Bounds, Checked, NotYet, argument
from paddle_sft.arguments.mixing import UNITS, WHEN_EXHAUSTED

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
        choices=(
            "src_tgt",
            "messages",
            "sharegpt",
            "alpaca",
            "prompt_completion",
            "text_label",
            "text",
            "preference",
            "response_sort",
            "kto",
        ),
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
        "Tokenise again rather than use the samples that an earlier run kept.",
        "重新分词，不用以前的运行保存的样本。",
        rows=(157,),
    )
    data_cache_dir: Optional[str] = argument(
        None,
        "Folder in which tokenised samples are kept between runs; null: paddle_sft/samples in the user's cache folder "
        "(XDG_CACHE_HOME, or .cache in the home folder); none: nothing is kept.",
        "在运行之间保存分词后样本的目录；null：用户缓存目录（XDG_CACHE_HOME，或主目录下的 .cache）中的 "
        "paddle_sft/samples；none：不保存。",
        rows=(103, 157),
    )
    preprocessing_num_workers: Optional[int] = argument(
        None,
        "Processes that tokenise; null: one for each core.",
        "分词的进程数；null：每个核心一个。",
        aliases=("dataset_num_proc",),
        bounds=POSITIVE,
        rows=(103, 115),
    )
    dataset: Optional[Union[str, List[str], Dict[str, Any]]] = argument(
        None,
        "Several data sets by name: names in a registry, or {name: path} (or {name: registry entry}).",
        "按名字给出多个数据集：登记表中的名字，或 {名字: 路径}（或 {名字: 登记表条目}）。",
        rows=(153,),
    )
    dataset_dir: Optional[str] = argument(None, "Folder of a registry of data sets.", "数据集登记表所在目录。")
    mixing: Optional[Union[List[float], Dict[str, Any]]] = argument(
        None,
        "What an epoch takes of each source of dataset: {name: {epochs: 2}} or {name: {share: 0.3}}, with max_samples "
        "and max_tokens as caps; a list holds all shares in order. See docs/mixing.md.",
        "每遍从 dataset 的各个来源取多少：{名字: {epochs: 2}} 或 {名字: {share: 0.3}}，"
        "可加上限 max_samples、max_tokens；列表则依次为各来源的份额。见 docs/mixing_zh.md。",
        aliases=("interleave_probs",),
        rows=(209, 211),
    )
    mixing_unit: str = argument(
        "samples",
        "What a share is a share of: samples, tokens or trained_tokens.",
        "份额按什么计算：samples（样本）、tokens（词）或 trained_tokens（参与训练的词）。",
        choices=UNITS,
        rows=(209,),
    )
    mixing_exhausted: str = argument(
        "stop",
        "When shares ask for more of a source than it has: stop ends the epoch before a sample would repeat, repeat "
        "goes on until every source was seen whole.",
        "份额要求超过来源所有的样本时：stop 在样本重复之前结束本遍，repeat 重复样本，直到每个来源都完整看过。",
        choices=WHEN_EXHAUSTED,
        rows=(209,),
    )
    data_stages: Optional[List[Dict[str, Any]]] = argument(
        None,
        "Stages of the run in order, each with its dataset names, mixing, and length in epochs, steps or tokens.",
        "依次进行的各阶段，每个阶段有自己的 dataset 名字、mixing，以及以 epochs、steps 或 tokens 给出的长度。",
        rows=(210,),
    )
    val_size: Optional[float] = argument(
        None,
        "Rows of the training data that become the dev split, for data without one: below 1 a part, else a number. "
        "Equal rows stay on one side.",
        "数据没有 dev 部分时，从训练数据中划出的行：小于 1 为比例，否则为行数。相同的行在同一边。",
        aliases=("split_dataset_ratio",),
        bounds=NOT_NEGATIVE,
    )
    eval_dataset: Optional[Union[str, List[str], Dict[str, Any]]] = argument(
        None,
        "Dev sets, each measured by itself as eval_NAME_loss and all together as eval_loss: names in the registry, "
        "paths, or {name: path}. They replace the data set's own dev split.",
        "开发集，每个单独报告为 eval_NAME_loss，合起来为 eval_loss：登记表中的名字、路径，或 {名字: 路径}。"
        "它们取代数据集自己的 dev 部分。",
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
        "Read samples while training instead of before: for data larger than memory. Needs max_steps.",
        "边训练边读样本，而不是事先读入：用于内存放不下的数据。需要 max_steps。",
        aliases=("streaming",),
        rows=(67,),
    )
    use_pose_convert: bool = argument(
        False,
        "PoSE: positions of training samples skip ahead, so that samples of max_length train for pose_max_length.",
        "PoSE：训练样本的位置向前跳跃，使 max_length 长的样本可以训练 pose_max_length 的上下文。",
        rows=(26, 69),
    )
    pose_max_length: Optional[int] = argument(
        None,
        "With use_pose_convert: the context to train for, in tokens.",
        "与 use_pose_convert 一起：要训练到的上下文长度（token 数）。",
        bounds=Bounds(minimum=2),
        rows=(26,),
    )
    eval_with_do_generation: bool = argument(
        False, "Evaluate by generating.", "用生成来评估。", not_yet=_GENERATION, rows=(29, 70)
    )
    save_generation_output: bool = argument(
        False, "Save what evaluation generated.", "保存评估时生成的文本。", not_yet=_GENERATION
    )
    chat_template: Optional[str] = argument(
        None,
        "File with a chat template; the same as template FILE. Where it names the model, template auto.",
        "对话模板文件；等同于 template 文件。若写的是模型本身，则为 template auto。",
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
