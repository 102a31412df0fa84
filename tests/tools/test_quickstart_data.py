"""The quickstart's data set: real sentences, split by module, without a leak, the same every time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import quickstart_data

SPLITS = ("train", "dev")


@pytest.fixture(scope="module")
def folder(quickstart_folder):
    return quickstart_folder


def rows(folder, kind, split):
    return [json.loads(line) for line in (folder / kind / f"{split}.json").read_text(encoding="utf-8").splitlines()]


def families(source_rows, key):
    return {quickstart_data.family_of(row[key].split("\n")[0][2:]) for row in source_rows}


def test_there_are_thousands_of_pairs_with_nothing_but_src_and_tgt(folder):
    train, dev = (rows(folder, "data", split) for split in SPLITS)
    assert len(train) >= 2000
    assert quickstart_data.MIN_DEV_PAIRS <= len(dev) <= quickstart_data.MAX_DEV_ROWS
    for row in train + dev:
        assert set(row) == {"src", "tgt"}
        assert row["src"].startswith("# ") and row["src"].endswith("# What it does:")
        assert row["tgt"].isascii() and "\n" not in row["tgt"] and 3 <= len(row["tgt"].split())


@pytest.mark.parametrize("kind, key", [("data", "src"), ("pretrain", "text")])
def test_no_module_is_on_both_sides_of_the_split(folder, kind, key):
    train, dev = (families(rows(folder, kind, split), key) for split in SPLITS)
    assert len(train) > 100 and len(dev) > 10
    assert not train & dev


def test_fine_tuning_and_pre_training_are_split_alike(folder):
    assert not families(rows(folder, "pretrain", "train"), "text") & families(rows(folder, "data", "dev"), "src")


def test_no_dev_sentence_can_be_read_in_train(folder):
    sentences = {row["tgt"] for row in rows(folder, "data", "train")}
    everything = " ".join(" ".join(row["text"].split()) for row in rows(folder, "pretrain", "train"))
    for row in rows(folder, "data", "dev"):
        assert row["tgt"] not in sentences
        assert row["tgt"] not in everything


def test_the_leak_filter_sees_a_sentence_inside_a_longer_train_text():
    Pair, Corpus = quickstart_data.Pair, quickstart_data.Corpus
    train = Corpus(
        (Pair("a", "# a", "Close the file."),), ('# a\ndef f():\n    """Opens.\n\n    Then closes\n    the door.\n',)
    )
    held_out = ("Close the file.", "Then closes the door.", "Paint the wall.")
    dev = Corpus(tuple(Pair("b", "# b", tgt) for tgt in held_out), ("# b" + train.texts[0][3:], "# b\nx = 1\n"))
    left = quickstart_data.without_leak(train, dev)
    assert [pair.tgt for pair in left.pairs] == ["Paint the wall."]
    assert left.texts == ("# b\nx = 1\n",)


def test_equal_library_gives_equal_bytes_whatever_the_hash_seed(folder, tmp_path):
    script = Path(quickstart_data.__file__)
    subprocess.run(
        [sys.executable, str(script), "--output_dir", str(tmp_path)],
        check=True,
        env={"PYTHONHASHSEED": "7"},
        timeout=60,
    )
    for name in ("data/train.json", "data/dev.json", "pretrain/train.json", "pretrain/dev.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_tests_generated_tables_and_installed_packages_are_left_out():
    names = [name for name, _ in quickstart_data.find_modules(Path(sysconfig.get_path("stdlib")))]
    assert "json.decoder" in names and "asyncio" in names
    parts = {part for name in names for part in name.split(".")}
    assert not parts & {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages"}


def test_no_module_is_executed(tmp_path):
    (tmp_path / "bomb.py").write_text('raise SystemExit("executed")\n\ndef f(x):\n    """Return the given x."""\n')
    (tmp_path / "future.py").write_text("this is not Python\n")
    corpora = quickstart_data.read_library(tmp_path)
    assert [pair.tgt for corpus in corpora for pair in corpus.pairs] == ["Return the given x."]


def test_a_library_without_docstrings_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "bare.py").write_text("def f():\n    return 1\n")
    with pytest.raises(SystemExit, match="gives 0 train and 0 dev pairs.*--library"):
        quickstart_data.build(tmp_path)


@pytest.mark.parametrize(
    "docstring, sentence",
    [
        ("Close the file.  It stays closed.", "Close the file."),
        ("Copy data (e.g. a list) to disk. More.", "Copy data (e.g. a list) to disk."),
        ("Take a name, e.g. Python, as given. More.", "Take a name, e.g. Python, as given."),
        (
            "Take any of a, b, etc. (See below for all names.) More.",
            "Take any of a, b, etc. (See below for all names.)",
        ),
        ("Wrapped over\n    two lines.", "Wrapped over two lines."),
        ("Heading without a stop\nThe second sentence is here.", "Heading without a stop"),
        ("index(x) -> int\n\nFind the first x.", "Find the first x."),
        ("index(x) -> find the first x.", "find the first x."),
        ("Too short.", None),
        ("Returns one of the following:", None),
        (">>> print(1) and so on", None),
        ("Caf\u00e9 menus are printed here.", None),
        ("a + b", None),
        ("see OptionParser.destroy().", None),
        ("", None),
    ],
)
def test_the_first_sentence_is_what_a_reader_would_call_it(docstring, sentence):
    assert quickstart_data.first_sentence(docstring) == sentence


def test_the_source_shows_class_signature_and_body_but_not_the_docstring():
    source = textwrap.dedent(
        '''
        class Box:
            async def open(self, *keys: str, force=False):
                """Open the box with any key."""
                # try each

                for key in keys:

                    pass
        '''
    )
    ((owner, node),) = [found for found in quickstart_data.walk_definitions(ast.parse(source)) if found[0]]
    assert quickstart_data.describe("toys", owner, node, source.splitlines()) == (
        "# toys\nclass Box:\n    async def open(self, *keys: str, force=False):\n"
        "        for key in keys:\n            pass\n# What it does:"
    )


def test_a_private_copy_of_a_module_stays_with_its_public_twin():
    assert quickstart_data.family_of("_pydecimal") == quickstart_data.family_of("decimal")
    assert quickstart_data.family_of("_collections_abc") != quickstart_data.family_of("collections")
    assert quickstart_data.is_held_out("email.message") == quickstart_data.is_held_out("email")
