"""Conversations become the ids that transformers' apply_chat_template gives; its assistant mask is what we train."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.builtin_templates import ANY_FAMILY, BUILT_IN, MARKS
from paddle_sft.data.own_template import choose_template
from paddle_sft.data.tokenize import find_specials, tokenize_conversations
from paddle_sft.models.tokenizers import load_tokenizer
from tests.parity.asking import MISSING, VARIABLE
from tests.parity.vocabularies import make_llama_tokenizer, make_qwen2_tokenizer, write_settings

SCRIPT = Path(__file__).parent / "reference" / "templates.py"

DIALOGUES: List[List[str]] = [
    ["red cat", "sings"],
    ["red cat", "sings under the tree", "The tree?", "The Quick, brown fox (12,345) doesn't."],
    ["", "an answer to nothing"],
    [" leading and trailing ", " like  this "],
    ["line\nbreak\n\n    indented\n", "\n\nstarts with lines\tand a tab\n"],
    ["accents: Ünïcödé, naïve", "今天天气很好; emoji 🙂"],
    ["system: Answer in one word.", "What is red?", "A colour."],
    ["system: \n spaced \n", "a", "b", "c", "d", "e", "f"],
    ["what does <|im_end|> mean?", "it ends a turn, as </s> does"],
    ["{{ not jinja }} {% if %}", "{% generation %} 'quoted' \\n <b>&amp;</b>"],
]
"""User and assistant in turns; "system: " begins a system message."""

# Templates without marks, of the kinds that models bring along: with a generation prompt, without one, with a header
# only in the answer, trimming, ending in a line.
BLACK_BOXES = {
    "prompted": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "unprompted": "{% for m in messages %}{{ m.role | upper }}: {{ m.content | trim }}{{ eos_token }}\n{% endfor %}",
    "llama": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'system' %}{{ m.content + '\n' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}"
    "{% endfor %}",
}


def messages_of(texts: List[str]) -> List[Dict[str, str]]:
    rest = list(texts)
    head = [{"role": "system", "content": rest.pop(0)[len("system: ") :]}] if texts[0].startswith("system: ") else []
    return head + [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(rest)]


def conversation_of(messages: List[Dict[str, str]], number: int) -> Conversation:
    return Conversation(tuple(Turn(one["role"], one["content"]) for one in messages), f"dialogue {number}")


def byte_level(folder: Path) -> Path:
    """Byte-level BPE with the marks of every family as tokens of its own."""
    folder.mkdir()
    make_qwen2_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = settings["added_tokens_decoder"]
    like = next(iter(added.values()))
    marks = {mark for name in BUILT_IN if name not in ("alpaca", "vicuna") for mark in MARKS[name]} | {"<begin>"}
    there = {token["content"] for token in added.values()}
    for mark in sorted(marks - there):
        added[str(max(map(int, added)) + 1)] = {**like, "content": mark}
    settings.update(bos_token="<begin>", additional_special_tokens=sorted(marks))
    write_settings(folder, settings)
    return folder


def sentencepiece(folder: Path, legacy: bool) -> Path:
    """As Mistral's and vicuna's. With `legacy` every text between two special tokens begins as a new word."""
    folder.mkdir()
    make_llama_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_settings(folder, {**settings, "legacy": legacy})
    return folder


def ask(folder: Path, templates: Dict[str, str], dialogues: Dict[str, Any]) -> Dict[str, Any]:
    if not os.environ.get(VARIABLE):
        pytest.fail(MISSING, pytrace=False)
    inherited = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [os.environ[VARIABLE], str(SCRIPT)],
        input=json.dumps({"folder": str(folder), "templates": templates, "dialogues": dialogues}),
        env={**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


class Side:
    """One tokenizer, and what transformers says about every template with it."""

    def __init__(self, folder: Path, templates: Dict[str, str], dialogues: List[List[str]]) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.specials = find_specials(self.tokenizer)
        self.folder = folder
        self.dialogues = [messages_of(texts) for texts in dialogues]
        self.theirs = ask(folder, templates, {name: self.dialogues for name in templates})

    def drafts(self, name: str, dialogues: List[List[Dict[str, str]]]) -> List[Any]:
        chosen = choose_template(name, self.tokenizer, self.specials, self.folder)
        conversations = [conversation_of(messages, number) for number, messages in enumerate(dialogues)]
        return tokenize_conversations(conversations, chosen, self.specials, self.tokenizer)

    def compare(self, name: str, theirs: str, with_mask: bool) -> None:
        answers = self.theirs[theirs]
        for draft, answer in zip(self.drafts(name, self.dialogues), answers):
            assert draft.ids.tolist() == answer["ids"], draft.place
            if with_mask:
                assert draft.trained.astype(int).tolist() == answer["trained"], draft.place
        for draft, answer in zip(self.drafts(name, [messages[:-1] for messages in self.dialogues]), answers):
            assert draft.ids.tolist() == answer["prompt"], draft.place
            assert not draft.trained[draft.turn_starts[-1] :].any(), draft.place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    folder = tmp_path_factory.mktemp("templates")
    for name, source in BLACK_BOXES.items():
        (folder / f"{name}.jinja").write_text(source, encoding="utf-8")
    return {name: folder / f"{name}.jinja" for name in BLACK_BOXES}


@pytest.fixture(scope="module")
def bytes_side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    folder = byte_level(tmp_path_factory.mktemp("bytes") / "tokenizer")
    # this tokenizer has a begin token and doesn't put it, so templates of no family begin without it
    bare = {name: BUILT_IN[name].replace("{{- bos_token -}}", "", 1) for name in ANY_FAMILY}
    return Side(folder, {**BUILT_IN, **bare, **BLACK_BOXES}, DIALOGUES)


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def pieces_side(tmp_path_factory: pytest.TempPathFactory, request) -> Side:
    folder = sentencepiece(tmp_path_factory.mktemp("pieces") / "tokenizer", request.param)
    names = ("alpaca", "vicuna", "llama2", "mistral", "deepseek")
    return Side(folder, {name: BUILT_IN[name] for name in names}, DIALOGUES)


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "llama2", "mistral", "deepseek"])
def test_a_sentencepiece_tokenizer_gives_the_ids_of_transformers(name: str, pieces_side: Side) -> None:
    pieces_side.compare(name, name, with_mask=True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_template_gives_the_ids_and_the_mask_of_transformers(name: str, bytes_side: Side) -> None:
    assert len(bytes_side.dialogues) == 10
    bytes_side.compare(name, name, with_mask=True)


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_a_template_file_without_marks_gives_the_ids_of_transformers(name: str, bytes_side: Side, files) -> None:
    bytes_side.compare(str(files[name]), name, with_mask=False)


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_a_template_without_marks_trains_what_the_same_template_would_mark(name: str, bytes_side: Side, files) -> None:
    said = [[one["content"] for one in messages if one["role"] == "assistant"] for messages in bytes_side.dialogues]
    end = bytes_side.tokenizer.eos_token if name != "prompted" else "<|im_end|>"
    for draft, answers in zip(bytes_side.drafts(str(files[name]), bytes_side.dialogues), said):
        changes = [index for index in range(1, len(draft.trained)) if draft.trained[index] != draft.trained[index - 1]]
        bounds = [*changes, len(draft.trained)]
        texts = [
            bytes_side.tokenizer.decode(draft.ids[start:stop].tolist())
            for start, stop in zip(bounds, bounds[1:])
            if draft.trained[start]
        ]
        assert [text.replace(end, "").strip() for text in texts] == [
            answer.replace(end, "").strip() for answer in answers
        ]
        assert all(text.endswith(end) for text in texts)


def test_a_models_own_template_is_read_from_its_folder(bytes_side: Side, tmp_path: Path) -> None:
    (bytes_side.folder / "chat_template.jinja").write_text(BLACK_BOXES["prompted"], encoding="utf-8")
    try:
        bytes_side.compare("auto", "prompted", with_mask=False)
    finally:
        (bytes_side.folder / "chat_template.jinja").unlink()
