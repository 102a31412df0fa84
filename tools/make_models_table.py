"""Write the table of model families into docs/models.md and docs/models_zh.md, from what the parity run measured.

    python tools/make_models_table.py            write the pages
    python tools/make_models_table.py --check    compare only; 1 if a page is out of date

The numbers stand in paddle_sft/models/verified.json, which `make parity-table` writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
VERIFIED = ROOT / "paddle_sft" / "models" / "verified.json"
BEGIN, END = "<!-- verified: begin (tools/make_models_table.py) -->", "<!-- verified: end -->"

NOT_VERIFIED = (
    "baichuan", "chatglm", "chatglm2", "deepseek_v2", "deepseek_v3", "gpt", "gptj", "jamba", "mamba", "qwen",
    "qwen3_moe", "rw", "yuan",
)  # fmt: skip
"""Other model types that users of PaddleNLP know; each is refused by name."""


class Language(NamedTuple):
    """The words of the table."""

    head: str
    yes: str
    no: str
    gpu: str
    later: str
    compared: str
    others: str


ENGLISH = Language(
    "| Family | Compared | Logits | Gradients | Packed rows | Merged | FlashMask | Tensor / pipeline parallel |",
    "yes",
    "no: by segments",
    "on a GPU",
    "not yet",
    "{configs} random configs",
    "Not verified, and refused by name: {names}.",
)
CHINESE = Language(
    "| 模型族 | 对比内容 | logits | 梯度 | 打包的行 | 合并后 | FlashMask | 张量 / 流水线并行 |",
    "支持",
    "否：逐段计算",
    "在 GPU 上",
    "尚不支持",
    "{configs} 个随机配置",
    "未经验证、按名字拒绝：{names}。",
)
PAGES = {"docs/models.md": ENGLISH, "docs/models_zh.md": CHINESE}


def table(content: Dict[str, Any], language: Language) -> str:
    """The text between the marks of a page."""
    versions = content["versions"]
    told = ("transformers", "torch", "paddlepaddle", "paddlenlp")
    lines = [", ".join(f"{name} {versions[name].partition('+')[0]}" for name in told) + ".", "", language.head]
    lines.append("|" + "---|" * (language.head.count("|") - 1))
    for family, found in content["families"].items():
        cells = [
            f"`{family}`",
            language.compared.format(configs=found["configs"]),
            *(f"{found[what]:.0e}" for what in ("logits", "gradients", "packed", "merged")),
            language.gpu if found["flashmask"] else language.no,
            _parallel(family, language),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", language.others.format(names=", ".join(f"`{name}`" for name in NOT_VERIFIED))]
    return "\n".join(lines)


def _parallel(family: str, language: Language) -> str:
    """What tests/parallel compares with one process."""
    from paddle_sft.models.catalogue import FAMILIES

    return language.yes if {"tensor", "pipeline"} <= set(FAMILIES[family].splits) else language.later


def page_with(page: str, text: str) -> str:
    """A page with `text` between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(argv).check
    content = json.loads(VERIFIED.read_text(encoding="utf-8"))
    stale = []
    for name, language in PAGES.items():
        old = (ROOT / name).read_text(encoding="utf-8")
        new = page_with(old, table(content, language))
        if new != old:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(new, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
