"""The chat formats of model families, as Jinja templates that mark what the assistant says.

They are wire formats: a model was trained with exactly these characters, so none may be changed for looks. Hugging
Face renders the same text from them (tests/parity/test_templates.py). Templates whose family writes an end token behind
every answer train it everywhere; baichuan's and chatglm's families write none between turns, so there it stands,
trained, behind the last answer only.
"""

from __future__ import annotations

from typing import Dict

_SPLIT_SYSTEM = r"""
{%- if messages[0].role == 'system' -%}
  {%- set system = messages[0].content -%}{%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = none -%}{%- set turns = messages -%}
{%- endif -%}
"""

_TAKE_TURNS = r"""
  {%- if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('user and assistant must take turns, beginning with user; message ' ~ loop.index ~ ' is '
      ~ message.role) -}}
  {%- endif -%}
"""

_NO_TOOLS = r"""
  {%- if message.role not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception('role ' ~ message.role ~ ' is not part of it') -}}
  {%- endif -%}
"""

_CHATML_MESSAGES = r"""
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\n' -}}
  {%- if message.role == 'assistant' -%}
    {%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
  {%- else -%}
    {{- message.content + '<|im_end|>' -}}
  {%- endif -%}
  {{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

_QWEN_SYSTEM = r"""
{%- if messages[0].role != 'system' -%}
  {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
"""

_ALPACA = (
    r"{{- bos_token -}}"
    + _SPLIT_SYSTEM
    + r"""
{{- (system if system is not none else 'Below is an instruction that describes a task. Write a response that '
  'appropriately completes the request.') + '\n\n' -}}
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- '### Instruction:\n' + message.content + '\n\n### Response:\n' -}}
  {%- else -%}
    {%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
    {{- '' if loop.last else '\n\n' -}}
  {%- endif -%}
{%- endfor -%}
"""
)

_VICUNA = (
    r"{{- bos_token -}}"
    + _SPLIT_SYSTEM
    + r"""
{{- (system if system is not none else 'A chat between a curious user and an artificial intelligence assistant. '
  'The assistant gives helpful, detailed, and polite answers to the user\'s questions.') + ' ' -}}
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- 'USER: ' + message.content + ' ASSISTANT:' -}}
  {%- else -%}
    {%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
)

_LLAMA2 = (
    _SPLIT_SYSTEM
    + r"""
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- bos_token + '[INST] ' -}}
    {%- if loop.first and system is not none -%}{{- '<<SYS>>\n' + system + '\n<</SYS>>\n\n' -}}{%- endif -%}
    {{- message.content + ' [/INST]' -}}
  {%- else -%}
    {%- generation -%}{{- ' ' + message.content + ' ' + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
)

_LLAMA3 = r"""
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\n\n' -}}
  {%- if message.role == 'assistant' -%}
    {%- generation -%}{{- message.content | trim + '<|eot_id|>' -}}{%- endgeneration -%}
  {%- else -%}
    {{- message.content | trim + '<|eot_id|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}
"""

_MISTRAL = (
    r"{{- bos_token -}}"
    + _SPLIT_SYSTEM
    + r"""
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- '[INST] ' + (system + '\n\n' if loop.first and system is not none else '') + message.content + ' [/INST]' -}}
  {%- else -%}
    {%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
)

_GEMMA = (
    r"{{- bos_token -}}"
    + _SPLIT_SYSTEM
    + r"""
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- '<start_of_turn>user\n' + (system + '\n\n' if loop.first and system is not none else '') -}}
    {{- message.content | trim + '<end_of_turn>\n' -}}
  {%- else -%}
    {{- '<start_of_turn>model\n' -}}
    {%- generation -%}{{- message.content | trim + '<end_of_turn>' -}}{%- endgeneration -%}
    {{- '\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""
)

_CHATGLM = r"""
{{- '[gMASK]sop' -}}
{%- for message in messages -%}
  {{- '<|' + ('observation' if message.role == 'tool' else message.role) + '|>\n ' -}}
  {%- if message.role == 'assistant' -%}
    {%- generation -%}{{- message.content + (eos_token if loop.last else '') -}}{%- endgeneration -%}
  {%- else -%}
    {{- message.content -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n ' -}}{%- endif -%}
"""

_BAICHUAN = (
    _SPLIT_SYSTEM
    + r"""
{{- system if system is not none else '' -}}
{%- for message in turns -%}"""
    + _TAKE_TURNS
    + r"""
  {%- if message.role == 'user' -%}
    {{- '<reserved_106>' + message.content + '<reserved_107>' -}}
  {%- else -%}
    {%- generation -%}{{- message.content + (eos_token if loop.last else '') -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
)

_DEEPSEEK = (
    r"{{- bos_token -}}{%- for message in messages -%}"
    + _NO_TOOLS
    + r"""
  {%- if message.role == 'system' -%}
    {{- message.content + '\n\n' -}}
  {%- elif message.role == 'user' -%}
    {{- 'User: ' + message.content + '\n\n' -}}
  {%- else -%}
    {{- 'Assistant:' -}}
    {%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
)

_DEEPSEEK3 = (
    r"{{- bos_token -}}{%- for message in messages -%}"
    + _NO_TOOLS
    + r"""
  {%- if message.role == 'system' -%}
    {{- message.content -}}
  {%- elif message.role == 'user' -%}
    {{- '<｜User｜>' + message.content -}}
  {%- else -%}
    {{- '<｜Assistant｜>' -}}
    {%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""
)

BUILT_IN: Dict[str, str] = {
    "alpaca": _ALPACA,
    "vicuna": _VICUNA,
    "llama2": _LLAMA2,
    "llama3": _LLAMA3,
    "chatml": _CHATML_MESSAGES,
    "qwen": _QWEN_SYSTEM + _CHATML_MESSAGES,
    "mistral": _MISTRAL,
    "gemma": _GEMMA,
    "chatglm": _CHATGLM,
    "baichuan": _BAICHUAN,
    "deepseek": _DEEPSEEK,
    "deepseek3": _DEEPSEEK3,
}
"""qwen: chatml with a default system message. mistral: version 1 of its format. gemma, mistral: a system message stands
before the first question. chatglm: version 3. baichuan: version 2. deepseek: LLM and V2; deepseek3: V3."""

MARKS: Dict[str, tuple] = {
    "alpaca": ("### Instruction:", "### Response:"),
    "vicuna": ("USER:", "ASSISTANT:"),
    "llama2": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "mistral": ("[INST]", "[/INST]"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "chatglm": ("[gMASK]", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"),
    "baichuan": ("<reserved_106>", "<reserved_107>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek3": ("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
}
"""What stands between messages; in a text of the data it would be read as the border of one."""

SINGLE_TOKENS: Dict[str, tuple] = {name: MARKS[name] for name in ("llama3", "chatml", "qwen", "gemma", "baichuan")}
SINGLE_TOKENS["chatglm"] = MARKS["chatglm"][1:]
SINGLE_TOKENS["deepseek3"] = MARKS["deepseek3"][:2]
"""Marks that the family's own tokenizers have as one token; another tokenizer splits them into many."""

ANY_FAMILY = ("alpaca", "vicuna")
"""Templates that are no family's own, so they begin as the tokenizer does: without a begin token if it adds none."""
