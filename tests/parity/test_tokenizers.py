"""A folder's tokenizer gives what transformers gives: ids, offsets, texts, special tokens, on a thousand lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from paddle_sft.models.tokenizers import copy_tokenizer, load_tokenizer
from paddle_sft.models.tokenizing.folder import OVER_THE_NAMED, REGISTERED
from tests.parity import tokenizer_folders as folders
from tests.parity.asking import Reference
from tests.parity.mixed_lines import NUM_LINES, mixed_lines

LINES = mixed_lines()
AGAIN = LINES[::7]
Answers = Dict[str, Any]


def our_answers(folder: Path, lines: List[str]) -> Answers:
    tokenizer = load_tokenizer(folder)
    pipeline = tokenizer.pipeline
    ids = tokenizer(lines)["input_ids"]
    every = range(len(tokenizer))
    named = tokenizer.special_tokens_map
    return {
        "plain": tokenizer(lines, add_special_tokens=False)["input_ids"],
        "offsets": [
            [list(span) for span in one.offsets] for one in pipeline.encode_batch(lines, add_special_tokens=False)
        ],
        "ids": ids,
        "kept": [tokenizer.decode(one) for one in ids],
        "skipped": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "cleaned": [tokenizer.decode(one, clean_up_tokenization_spaces=True) for one in ids],
        "alone": [tokenizer.decode([number]) for number in every],
        "tokens": tokenizer.convert_ids_to_tokens(every),
        "named": named,
        "named_ids": {name: tokenizer.convert_tokens_to_ids(text) for name, text in named.items()},
        "special": tokenizer.all_special_tokens,
        "vocab_size": tokenizer.vocab_size,
    }


def differences(ours: Answers, theirs: Answers, lines: List[str]) -> Dict[str, Any]:
    """What differs: for texts the number of lines, and the first of them with both answers."""
    found = {}
    for name, answer in theirs.items():
        if ours[name] == answer:
            continue
        pairs = list(zip(lines, ours[name], answer)) if isinstance(answer, list) else []
        different = [(line, one, other) for line, one, other in pairs if one != other]
        found[name] = (len(different), different[0]) if different else (ours[name], answer)
    return found


@pytest.fixture(scope="module")
def compared(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dict[str, Any]]:
    """Name of a folder -> what differs on a thousand lines, and the folder; each is made and asked about once."""
    root = tmp_path_factory.mktemp("tokenizers")
    known: Dict[str, Any] = {}

    def compare(name: str) -> Dict[str, Any]:
        if name not in known:
            folder = folders.make_folder(root, name)
            theirs = reference.ask("tokenized", folder=folder, lines=LINES)
            known[name] = {"folder": folder, "found": differences(our_answers(folder, LINES), theirs, LINES)}
        return known[name]

    return compare


def test_there_are_a_thousand_lines_of_every_kind() -> None:
    assert len(LINES) == NUM_LINES == 1000
    text = "".join(LINES)
    for kind in (
        "今天",
        "don't",
        "def f",
        "\U0001f468\u200d",
        "e\u0301",
        "\x00",
        "\u3000",
        "\t",
        "<|im_end|>\n",
        "\ufeff",
    ):
        assert kind in text, kind


@pytest.mark.parametrize("name", folders.FOLDERS)
def test_a_folder_gives_the_ids_and_texts_of_transformers(name: str, compared) -> None:
    assert compared(name)["found"] == {}


@pytest.mark.parametrize("name", folders.FOLDERS)
def test_a_folder_that_transformers_writes_again_is_read_as_it_reads_it(name: str, compared, reference) -> None:
    folder = compared(name)["folder"]
    again = folder.parent / f"{folder.name}-again"
    reference.ask("write_again", folder=folder, target=again)
    if (folder / "config.json").exists():
        shutil.copy(folder / "config.json", again)
    theirs = reference.ask("tokenized", folder=again, lines=AGAIN)
    assert differences(our_answers(again, AGAIN), theirs, AGAIN) == {}


@pytest.mark.parametrize("name", folders.FOLDERS)
def test_a_copied_tokenizer_is_the_same_in_transformers(name: str, compared, reference, tmp_path) -> None:
    folder = compared(name)["folder"]
    copy_tokenizer(folder, tmp_path)
    if (folder / "config.json").exists():
        shutil.copy(folder / "config.json", tmp_path)
    theirs = reference.ask("tokenized", folder=tmp_path, lines=AGAIN)
    assert differences(our_answers(folder, AGAIN), theirs, AGAIN) == {}


def test_the_classes_of_model_types_are_those_of_transformers(reference: Reference) -> None:
    theirs = reference.ask("tokenizer_classes", model_types=[*REGISTERED, "llama", "bloom"])
    assert theirs == {
        **{name: [kind, name in OVER_THE_NAMED] for name, kind in REGISTERED.items()},
        "llama": [None, False],
        "bloom": [None, False],
    }


# ---- where transformers is not followed -----------------------------------------------------------------------------


@pytest.fixture
def without_file(tmp_path: Path) -> Path:
    """mistral with tokenizer.model alone."""
    folder = tmp_path / "mistral"
    folder.mkdir()
    folders.llama_model(folder, model_type="mistral", legacy=True)
    return folder


def test_transformers_still_leaves_out_the_space_before_mistrals_first_word(without_file: Path, reference) -> None:
    """Else models/tokenizing/folder.py's is_read_otherwise can go, and the tokenizer.json that copies get."""
    theirs = reference.ask("tokenized", folder=without_file, lines=["red cat"])
    assert theirs["tokens"][theirs["plain"][0][0]] != "\u2581red"


@pytest.mark.parametrize("legacy", [True, False])
def test_mistral_without_its_file_is_read_as_llama_is(without_file: Path, reference, tmp_path: Path, legacy) -> None:
    """transformers itself puts the space when nothing but the class is known; so did sentencepiece in training."""
    folders.llama_model(without_file, model_type="mistral", legacy=legacy)
    plain = tmp_path / "plain"
    plain.mkdir()
    folders.llama_model(plain, legacy=legacy)
    theirs = reference.ask("tokenized", folder=plain, lines=LINES)
    assert differences(our_answers(without_file, LINES), theirs, LINES) == {}


def test_no_space_is_put_where_the_file_asks_for_none(without_file: Path, reference) -> None:
    (without_file / "tokenizer.model").write_bytes(folders.gemma_sentencepiece())
    folders.write(without_file / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})
    theirs = reference.ask("tokenized", folder=without_file, lines=LINES)
    assert differences(our_answers(without_file, LINES), theirs, LINES) == {}


@pytest.mark.parametrize("model_type", ["mistral", "mixtral", "phi3", ""])
def test_what_transformers_would_read_otherwise_is_copied_so_that_it_does_not(
    model_type: str, reference, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    no_class = {"tokenizer_class": ...} if not model_type else {}
    folders.llama_model(source, model_type=model_type, legacy=True, add_eos_token=True, **no_class)
    copy_tokenizer(source, target)
    if model_type:
        shutil.copy(source / "config.json", target)
    theirs = reference.ask("tokenized", folder=target, lines=LINES)
    assert differences(our_answers(source, LINES), theirs, LINES) == {}


def test_paddlenlps_own_llama_folder_is_copied_so_that_transformers_begins_with_the_begin_token(
    reference, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    folders.llama_model(source, name="sentencepiece.bpe.model", add_bos_token=..., add_eos_token=...)
    copy_tokenizer(source, target)
    theirs = reference.ask("tokenized", folder=target, lines=LINES)
    assert theirs["ids"][0][0] == 1
    assert differences(our_answers(source, LINES), theirs, LINES) == {}


def test_bloom_without_its_file_gives_what_transformers_reads_from_the_file(
    reference, tmp_path: Path, compared
) -> None:
    folder = tmp_path / "bloom"
    folder.mkdir()
    folders.bloom_file(folder, keep=False)
    theirs = reference.ask("tokenized", folder=compared("bloom tokenizer.json")["folder"], lines=LINES)
    assert differences(our_answers(folder, LINES), theirs, LINES) == {}


def test_the_quickstarts_tokenizer_is_the_same_in_transformers(reference, tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    monkeypatch.delitem(sys.modules, "quickstart_tokenizer", raising=False)
    import quickstart_tokenizer

    lines = [line for line in folders.training_lines() if "\x00" not in line]
    quickstart_tokenizer.write_tokenizer(quickstart_tokenizer.train_tokenizer(iter(lines), 1000), tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))["legacy"] is True
    theirs = reference.ask("tokenized", folder=tmp_path, lines=LINES)
    assert differences(our_answers(tmp_path, LINES), theirs, LINES) == {}
