"""Other documents' names lead to ours, and a value that means another value is translated where one can see it."""

from __future__ import annotations

import pytest

from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.keys import COMMANDS, TRANSLATIONS, command_catalogue, finetune_catalogue
from paddle_sft.arguments.values import members_of

CATALOGUE = finetune_catalogue()
AVAILABLE_ALIASES = sorted(alias for alias, name in CATALOGUE.aliases.items() if CATALOGUE.keys[name].available)
OTHER_ALIASES = sorted(alias for alias, name in CATALOGUE.aliases.items() if not CATALOGUE.keys[name].available)
BESIDE = {"mixing": {"dataset": ["law", "chat"]}, "lazy": {"max_steps": 4}}
"""What a key needs beside it."""
BESIDE.update({name: {"lora": False} for name in ("spectrum_top", "spectrum_config_path", "lokr", "vera")})
BESIDE.update({
    key: {"lora": False, "adapter": method}
    for method, keys in METHODS.items() for key in keys.keys if key not in METHODS["lora"].keys
})  # fmt: skip
BESIDE["qat"] = {"lora": False}
BESIDE["sharding_parallel_degree"] = {"sharding": "stage1"}
BESIDE["adalora_init_r"] = {**BESIDE["adalora_init_r"], "adalora_target_r": 2}
SAMPLES = {bool: True, int: 4, float: 0.5, str: "text"}


def sample_of(name: str):
    """A value other than the default that the key accepts."""
    special = {"dtype": "float32", "lora_target_modules": ["q_proj"], "evaluation_strategy": "epoch"}
    special["mixing"] = [0.25, 0.75]
    special["qat"] = "a8w8"
    special["lora_modules_to_save"] = ["norm", "lm_head"]
    special["new_special_tokens"] = ["<a>", "<b>"]
    key = CATALOGUE.keys[name]
    if name in special:
        return special[name]
    return SAMPLES[members_of(key.hint)[0]]


def value_of(arguments, name: str):
    return getattr(getattr(arguments, CATALOGUE.keys[name].group), name)


@pytest.mark.parametrize("alias", AVAILABLE_ALIASES)
def test_every_alias_sets_its_key_from_a_file(load, alias):
    name = CATALOGUE.aliases[alias]
    wanted = sample_of(name)
    changes = {name: ..., alias: wanted, "lora": True, "src_length": 2, **BESIDE.get(name, {})}
    arguments = load(changes)
    assert value_of(arguments, name) == wanted
    assert name in arguments.given and alias not in arguments.given


@pytest.mark.parametrize("alias", AVAILABLE_ALIASES)
def test_every_alias_sets_its_key_from_the_command_line(load, alias):
    name = CATALOGUE.aliases[alias]
    wanted = sample_of(name)
    word = ",".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
    arguments = load({"lora": True, "src_length": 2, **BESIDE.get(name, {})}, f"--{alias}", word)
    assert value_of(arguments, name) == wanted
    assert arguments.sources[name] == "command line"


@pytest.mark.parametrize("alias", OTHER_ALIASES)
def test_every_alias_of_a_key_that_is_not_available_is_accepted_where_it_is_off(load, alias):
    key = CATALOGUE.keys[CATALOGUE.aliases[alias]]
    assert value_of(load({alias: key.default}), key.name) == key.default


@pytest.mark.parametrize(
    "alias, name",
    [
        ("tokenizer_name", "tokenizer_name_or_path"), ("torch_dtype", "dtype"), ("max_seq_length", "max_length"),
        ("cutoff_len", "max_length"), ("block_size", "max_length"), ("dataset_id_or_path", "dataset_name_or_path"),
        ("lora_r", "lora_rank"), ("r", "lora_rank"), ("lora_target", "lora_target_modules"),
        ("target_modules", "lora_target_modules"), ("lokr_dim", "lokr_rank"), ("eval_strategy", "evaluation_strategy"),
        ("gradient_checkpointing", "recompute"), ("intokens", "zero_padding"), ("use_rslora", "rslora"),
        ("modules_to_save", "lora_modules_to_save"), ("gradient_clipping", "max_grad_norm"),
        ("sharding_degree", "sharding_parallel_degree"), ("use_liger_kernel", "use_liger"),
    ],
)  # fmt: skip
def test_the_other_documents_names_are_aliases(alias, name):
    assert CATALOGUE.aliases[alias] == name


@pytest.mark.parametrize("catalogue", [CATALOGUE, *map(command_catalogue, COMMANDS)])
def test_no_spelling_leads_to_two_keys(catalogue):
    spellings = [*catalogue.keys, *(a for key in catalogue.keys.values() for a in key.aliases), *catalogue.translations]
    assert len(spellings) == len(set(spellings))


_FLASH = "flash_attention_2"


@pytest.mark.parametrize(
    "written, value, name, meant, why",
    [
        ("finetuning_type", "lora", "lora", True, 'finetuning_type is "lora"'),
        ("finetuning_type", "full", "lora", False, 'finetuning_type is "full"'),
        ("use_peft", True, "lora", True, "use_peft is true"),
        ("use_peft", False, "lora", False, "use_peft is false"),
        ("attn_implementation", "eager", "use_flash_attention", False, 'attn_implementation is "eager"'),
        ("attn_implementation", _FLASH, "use_flash_attention", True, f'attn_implementation is "{_FLASH}"'),
        ("train_files", ["a.json"], "dataset_name_or_path", "a.json", 'train_files is ["a.json"]'),
        ("train_files", "a.json", "dataset_name_or_path", "a.json", 'train_files is ["a.json"]'),
        ("stage", "pt", "stage", "pretrain", "stage pt means pretrain"),
        ("lora_target", "all", "lora_target_modules", "all-linear", "lora_target_modules all means all-linear"),
    ],
)
def test_a_value_with_another_meaning_is_translated_and_shown(load, written, value, name, meant, why):
    changes = {"dataset_name_or_path": "./data" if name != "dataset_name_or_path" else ..., written: value}
    if name == "lora_target_modules":
        changes["lora"] = True
    arguments = load(changes)
    assert value_of(arguments, name) == meant
    assert arguments.derived[name] == (meant, why)


@pytest.mark.parametrize(
    "written, value, message",
    [
        ("quantization_bit", 3, "quantization_bit must be one of 4, 8, null, got 3"),
        ("quantization_bit", "4", "quantization_bit must be a whole number or null"),
        ("attn_implementation", "sdpa", 'attn_implementation "sdpa" is not available yet; write eager'),
        ("finetuning_type", "lorra", 'finetuning_type must be one of "lora", "full", "freeze", got "lorra"'),
        ("train_files", ["a.json", "b.json"], "train_files has 2 paths; give one, or one folder"),
    ],
)
def test_a_translated_value_that_can_not_work_is_refused_in_the_users_words(problems, written, value, message):
    changes = {written: value}
    if written == "train_files":
        changes["dataset_name_or_path"] = ...
    [line] = problems(changes)
    assert message in line


@pytest.mark.parametrize("written, value", [("load_in_4bit", False), ("load_in_8bit", False),
                                            ("quantization_bit", None), ("attn_implementation", None)])  # fmt: skip
def test_a_value_that_says_nothing_changes_nothing(load, written, value):
    arguments = load({written: value})
    assert TRANSLATIONS[written].target not in arguments.given


def test_two_spellings_with_the_same_value_are_no_contradiction(load):
    assert load({"max_length": 4096, "max_seq_length": 4096}).data.max_length == 4096


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_length": 4096, "max_seq_length": 1500}, "max_length is given twice in"),
        ({"max_length": 4096, "max_seq_length": 1500}, "max_length is 4096 and max_seq_length is 1500; keep one"),
        ({"lora": False, "finetuning_type": "lora"}, 'lora is false and finetuning_type is "lora"; keep one'),
        ({"use_peft": True, "finetuning_type": "full"}, 'use_peft is true and finetuning_type is "full"; keep one'),
    ],
)
def test_two_spellings_with_different_values_are(problems, changes, message):
    [line] = problems(changes)
    assert message in line


@pytest.mark.parametrize("value", [{"use_reentrant": False}, {}, None])
def test_nested_recompute_options_are_read(load, value):
    assert load({"gradient_checkpointing_kwargs": value}).train.recompute_use_reentrant is False


@pytest.mark.parametrize(
    "words",
    [
        ["--gradient_checkpointing_kwargs.use_reentrant", "false"],
        ["--gradient_checkpointing_kwargs", '{"use_reentrant": false}'],
    ],
)
def test_nested_recompute_options_are_read_from_the_command_line(load, words):
    assert "recompute_use_reentrant" in load({}, *words).given


@pytest.mark.parametrize(
    "value, message",
    [
        ({"use_reentrant": True}, "gradient_checkpointing_kwargs.use_reentrant true is not available yet"),
        ({"use_rentrant": True}, "did you mean gradient_checkpointing_kwargs.use_reentrant?"),
        (3, "unknown argument 'gradient_checkpointing_kwargs'"),
    ],
)
def test_nested_recompute_options_that_can_not_work_are_refused(problems, value, message):
    [line] = problems({"gradient_checkpointing_kwargs": value})
    assert message in line
