"""docs/arguments.md and docs/arguments_zh.md, written from the declarations."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple, get_origin

from paddle_sft.arguments.fields import Bounds, Key, listed
from paddle_sft.arguments.keys import COMMANDS, UPSTREAM_GROUP, Catalogue, command_catalogue, finetune_catalogue
from paddle_sft.arguments.upstream_table import UPSTREAM, VERSION
from paddle_sft.arguments.usage import grouped
from paddle_sft.arguments.values import NONE, describe, members_of, show

_WORDS: Dict[str, Dict[str, str]] = {
    "en": {
        "language": "en",
        "title": "# Arguments",
        "written": "Written by `tools/make_arguments.py` from `paddle_sft/arguments/`; change those, not this page.",
        "intro": "One JSON or YAML file tells a run what to do, then `--key value` on the command line, which wins:",
        "rules": (
            'Names are never abbreviated. `null` is null. A bare `--key` means true. A list is `a,b`, `\'["a", "b"]\'` '
            "or `a b`. All that is wrong is reported at once, before anything is loaded. A key whose feature is not "
            "available yet is accepted where it switches the feature off and refused by name elsewhere. "
            "`paddle-sft explain KEY` tells the same; `config/schema.json` lets editors complete keys."
        ),
        "head": "| Key | Other spellings | Type | Default | Meaning |",
        "later": "Not available yet; accepted at the values shown, which switch the feature off:",
        "later_head": "| Key | Other spellings | Accepted | Meaning | Until then |",
        "translated": "## Keys of other documents that are turned into these",
        "translated_intro": "The start-up plan shows what they were turned into.",
        "translated_head": "| Key | Values | Sets | Meaning |",
        "upstream": "## Keys of PaddleNLP {version}'s TrainingArguments",
        "upstream_intro": (
            "*ours*: in the tables above. *passed on*: given to PaddleNLP as written. *kept anyway*: accepted at any "
            "value, for what it asks holds in any case. *refused*: accepted at its default only. Where two defaults "
            "stand, ours differs."
        ),
        "upstream_head": "| Key | Type | Default | Status |",
        "ours": "ours: ",
        "choices": "One of: ",
        "range": "Range: ",
    },
    "zh": {
        "language": "zh",
        "title": "# 参数",
        "written": "由 `tools/make_arguments.py` 生成；请修改 `paddle_sft/arguments/` 中的声明，不要修改本页。",
        "intro": "一次运行由一个 JSON 或 YAML 文件决定，命令行上的 `--key value` 优先：",
        "rules": (
            '参数名不能缩写。`null` 就是空。单独的 `--key` 表示 true。列表写作 `a,b`、`\'["a", "b"]\'` 或 `a b`。'
            "所有错误在加载任何东西之前一次报告。功能尚未提供的参数，取关闭该功能的值时接受，取其他值时指名拒绝。"
            "`paddle-sft explain KEY` 给出同样的说明；`config/schema.json` 供编辑器补全。"
        ),
        "head": "| 参数 | 其他写法 | 类型 | 默认值 | 含义 |",
        "later": "尚未提供；只接受下列关闭该功能的值：",
        "later_head": "| 参数 | 其他写法 | 接受的值 | 含义 | 在此之前（英文） |",
        "translated": "## 其他文档的参数，会转换为上面的参数",
        "translated_intro": "启动时的计划会显示转换结果。",
        "translated_head": "| 参数 | 值 | 设置 | 含义 |",
        "upstream": "## PaddleNLP {version} 的 TrainingArguments",
        "upstream_intro": (
            "*ours*：见上面各表。*passed on*：原样交给 PaddleNLP。*kept anyway*：任何值都接受，因为其要求总是成立。"
            "*refused*：只接受默认值。列出两个默认值时，ours 是本套件的默认值。"
        ),
        "upstream_head": "| 参数 | 类型 | 默认值 | 状态 |",
        "ours": "ours：",
        "choices": "可选：",
        "range": "范围：",
    },
}

_TITLES: Dict[str, Tuple[str, str]] = {
    "model": ("Model", "模型"),
    "data": ("Data", "数据"),
    "adapter": ("Adapter", "适配器"),
    "quant": ("Quantisation", "量化"),
    "train": ("Training", "训练"),
    "parallel": ("Parallel", "并行"),
    "generate": ("Generation in a run", "运行中的生成"),
}


def render_document(language: str) -> str:
    """The whole page in `en` or `zh`."""
    words = _WORDS[language]
    catalogue = finetune_catalogue()
    lines = [words["title"], "", words["written"], "", words["intro"], ""]
    lines += [
        "```bash",
        "python run_finetune.py CONFIG.json --learning_rate 1e-4 --do_train",
        "```",
        "",
        words["rules"],
    ]
    for group, keys in grouped(catalogue).items():
        if group != UPSTREAM_GROUP:
            lines += ["", f"## {_TITLES[group][language == 'zh']}", *_tables(keys, language)]
    lines += ["", words["translated"], "", words["translated_intro"], "", words["translated_head"], "|---|---|---|---|"]
    for name, item in catalogue.translations.items():
        values = ", ".join(f"`{show(value)}`" for value in (*item.meaning, *item.silent))
        lines.append(_row(f"`{name}`", values, f"`{item.target}`", _meaning(item.help, item.zh, language)))
    for command in COMMANDS:
        lines += ["", f"## {command}", *_tables(list(command_catalogue(command).keys.values()), language)]
    lines += ["", words["upstream"].format(version=VERSION), "", words["upstream_intro"], ""]
    lines += [words["upstream_head"], "|---|---|---|---|", *_upstream_rows(catalogue, words)]
    return "\n".join(lines) + "\n"


def _tables(keys: List[Key], language: str) -> List[str]:
    """One table of the keys that work and one of those that do not yet."""
    words = _WORDS[language]
    lines: List[str] = []
    now = [key for key in keys if key.available]
    if now:
        lines += ["", words["head"], "|---|---|---|---|---|"]
    for key in now:
        meaning = _meaning(key.help, key.zh, language)
        if key.choices.allowed:
            meaning += f" {words['choices']}{listed(key.choices.allowed)}."
        if key.bounds:
            meaning += f" {words['range']}{_range(key.bounds)}."
        lines.append(_row(f"`{key.name}`", _aliases(key), _type(key.hint, language), f"`{show(key.default)}`", meaning))
    later = [key for key in keys if not key.available]
    if later:
        lines += ["", words["later"], "", words["later_head"], "|---|---|---|---|---|"]
    for key in later:
        off = ", ".join(f"`{show(value)}`" for value in key.off_values)
        meaning = _meaning(key.help, key.zh, language)
        lines.append(_row(f"`{key.name}`", _aliases(key), off, meaning, key.not_yet.instead))
    return lines


def _upstream_rows(catalogue: Catalogue, words: Dict[str, str]) -> List[str]:
    rows = []
    for name, known in UPSTREAM.items():
        default = f"`{show(known.default)}`"
        key = catalogue.find(name)
        if known.status == "ours" and key is not None and key.default != known.default:
            default += f" ({words['ours']}`{show(key.default)}`)"
        rows.append(_row(f"`{name}`", _type(known.hint, words["language"]), default, known.status))
    return rows


def _meaning(english: str, chinese: str, language: str) -> str:
    return chinese if language == "zh" else english


_CHINESE_TYPES = {bool: "true 或 false", int: "整数", float: "数", str: "文本", dict: "对象", NONE: "null"}


def _type(hint: Any, language: str) -> str:
    """A type in words."""
    if language == "en":
        return describe(hint)
    return " 或 ".join(_CHINESE_TYPES.get(get_origin(member) or member, "列表") for member in members_of(hint))


def _range(bounds: Bounds) -> str:
    """A range in signs, the same in every language."""
    parts = []
    if bounds.minimum is not None:
        parts.append(f"{'>' if bounds.strict_minimum else '≥'} {bounds.minimum:g}")
    if bounds.maximum is not None:
        parts.append(f"{'<' if bounds.strict_maximum else '≤'} {bounds.maximum:g}")
    return ", ".join([*parts, *(f"{value:g}" for value in bounds.also)])


def _aliases(key: Key) -> str:
    return ", ".join(f"`{alias}`" for alias in key.aliases)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
