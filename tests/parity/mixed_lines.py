"""A thousand lines of what tokenizers disagree on, the same in every run."""

from __future__ import annotations

from typing import List

import numpy as np

NUM_LINES = 1000

SPECIAL = (
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|begin_of_text|>", "<|eot_id|>", "<|end|>", "<|assistant|>", "<start_of_turn>", "<end_of_turn>", "<tool_call>",
    "</tool_call>", "<think>", "[INST]", "[/INST]", "<left>", "<right>", "<both>", "word", "<É>", "<E\u0301>",
    "riverbank", "<image>", "<0x0A>",
)  # fmt: skip
"""Special tokens and added tokens of the folders: each is one in some of them, and text in the others."""

_SPACES = (
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\n\n\n", " \n ", "\t\t", "\u00a0", "\u3000", "\u2003", "\u2028",
    "\u0085", "\x0b", "\x0c", "\x1c", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2581", "\u0120", " \u2581 ",
)  # fmt: skip

_ENGLISH = (
    "The quick brown fox", "jumps over 12,345,678 lazy dogs.", "don't", "it's", "I'VE", "we'll", "they're", "'s", "n't",
    "e.g.", "Mr. Smith's", "3.14159", "1e-05", "0x1F", "2024-02-29", "100%", "a+b=c", "...", "!?", "--", "—", "red",
    "cat", "river", "tree", "house", "under", "quickly", "a", "I", "to be or not to be", "supercalifragilistic",
)  # fmt: skip

_CODE = (
    "def f(x):\n    return x ** 2  # square", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}", "if (a&&b||!c) x->y;",
    "SELECT * FROM t WHERE id='7';", '<div class="a">&amp;</div>', "https://example.org/a?b=c&d=%20#e", "\\n\\t",
    "C:\\path\\file.txt", "$x_1^2 + \\frac{a}{b}$", '{"key": [1, 2, null]}', "`code`", "**bold**", "#include <x>",
    "me@example.org", "a" * 20, "0" * 10, "=" * 10, "(", ")", "[", "|",
)  # fmt: skip

_OTHER_SCRIPTS = (
    "今天天气很好", "你好，世界！", "中文和English混合", "请问“老师”在吗？", "第123章", "龘靐齉", "𠮷野家",
    "日本語のテキスト", "한국어", "\u1112\u1161\u11ab", "\u0627\u0644\u0639\u0631", "\u05e9\u05c1\u05dc",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e20\u0e32\u0e29\u0e32", "Привет", "。。。", "，", "…", "\u060c",
    "\u06d4", "\u0964", "ＡＢ１", "ß", "İ", "ﬁ", "\u212b",
)  # fmt: skip

_MARKS = (
    "café", "cafe\u0301", "n\u0303", "Ünïcödé", "\u1e69", "s\u0323\u0307", "Z\u0351\u0343\u034ca\u0308l\u0327g\u0335o",
    "🙂", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1f3", "\u2764\ufe0f",
    "1\ufe0f\u20e3", "\x00", "\x01\x02", "\x7f", "\x1b[31m", "\ue000", "\ufffd", "\uffff", "\U0010fffd",
)  # fmt: skip

_PIECES = (*_ENGLISH, *_CODE, *_OTHER_SCRIPTS, *_MARKS)

_FIXED = (
    " ", "  ", "\n", " red", "  two  spaces", "red ", "\nred\n", "a", "\u2581", "\u2581red", "red\u2581cat", "<s>",
    "<s> red", "</s>red", "red</s>", "red </s> cat", "red</s></s>cat", "<s></s>", "x<|im_end|>\n<|im_start|>y",
    "<|im_start|>user\nhi<|im_end|>\n", "a<left>b", "a  <left>  b", "a <right> b", "a \n<both>\t b", "_word",
    "word words sword word", "word中", "e\u0301<s>e\u0301", "<É> <é> <E\u0301>", "<|end|>\n<|assistant|>\nyes<|end|>",
    "[INST] red [/INST] cat </s><s>[INST] x [/INST]", "<S></S>", "< s >", "<start_of_turn>user\n\n\nred<end_of_turn>\n",
    "<think>\n\n</think>\n\n", "I <tool_call>{}</tool_call>", "a riverbank riverbanks", "x" * 3000, " " * 200,
    "\n" * 100, "中" * 500, "🙂" * 100, "red " * 700,
)  # fmt: skip


def mixed_lines() -> List[str]:
    """NUM_LINES texts: the fixed ones, every piece alone, and pieces, spaces and special tokens at random."""
    random = np.random.default_rng(11)
    pools = (_PIECES, _SPACES, SPECIAL)
    lines = [*_FIXED, *_PIECES, *_SPACES, *SPECIAL]
    while len(lines) < NUM_LINES:
        kinds = random.choice(3, size=int(random.integers(2, 14)), p=(0.5, 0.35, 0.15))
        lines.append("".join(pools[kind][int(random.integers(len(pools[kind])))] for kind in kinds))
    return lines


def training_lines() -> List[str]:
    """What the tiny tokenizers are trained on: words of all kinds, no special tokens."""
    random = np.random.default_rng(12)

    def pick(pool, num) -> str:
        return pool[int(random.integers(num))]

    lines = ("".join(pick(_PIECES, len(_PIECES)) + pick(_SPACES, 4) for _ in range(12)) for _ in range(600))
    return [line.replace("\x00", "") for line in lines]
