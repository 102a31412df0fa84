"""Markdown pages as blocks, commands, headings and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
BY_NAME = {page.relative_to(ROOT).as_posix(): page for page in PAGES}


class Block(NamedTuple):
    """A fenced block: its language, what stands behind it in the opening line (a file name), its text, its line."""

    language: str
    file: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One command line of a bash block, continuation lines joined."""

    text: str
    comments: str
    """The comment lines above it in its block."""

    @property
    def words(self) -> List[str]:
        return shlex.split(self.text)


def blocks(page: Path) -> List[Block]:
    """Every fenced block, in order.

    Raises:
        ValueError: a fence that is not closed.
    """
    found: List[Block] = []
    opened = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.lstrip().startswith("```"):
            if opened:
                opened[2].append(line)
        elif opened is None:
            language, _, file = line.strip()[3:].partition(" ")
            opened = (language, file.strip(), [], number)
        else:
            found.append(Block(opened[0], opened[1], "\n".join(opened[2]), opened[3]))
            opened = None
    if opened:
        raise ValueError(f"{page}: the block of line {opened[3]} is not closed")
    return found


def commands(block: Block) -> List[Command]:
    """The command lines of a bash block; a comment holds for all that follows it."""
    found, comments = [], []
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.strip().startswith("#"):
            comments.append(line.strip())
        elif line.strip():
            found.append(Command(line.strip(), "\n".join(comments)))
    return found


def page_commands(page: Path) -> List[str]:
    """The text of every command of a page, in order."""
    return [command.text for block in blocks(page) if block.language == "bash" for command in commands(block)]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> List[str]:
    return re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """What a Markdown viewer makes of a heading for links: lower case, no punctuation, hyphens for blanks."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> List[str]:
    """Targets of all links of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def twins() -> Dict[str, str]:
    """English page -> Chinese page, by name, for every page that has one."""
    pairs = {name: name[: -len(".md")] + "_zh.md" for name in BY_NAME if not name.endswith("_zh.md")}
    return {english: chinese for english, chinese in pairs.items() if chinese in BY_NAME}
