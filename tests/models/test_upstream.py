"""Defects of paddlenlp 3.0.0b4 that this suite works around. A test here turns red when upstream is mended: then the
workaround it names can go."""

from __future__ import annotations

import paddle
import paddlenlp.transformers as transformers
import pytest
from paddlenlp.transformers.llama.modeling import LlamaPretrainingCriterion

from tests import tiny


def test_the_rope_parameters_of_transformers_5_are_ignored():
    """Worked around in models/config.py, _spell_as_paddlenlp."""
    assert transformers.LlamaConfig(rope_parameters={"rope_theta": 5e5}).rope_theta == 10000.0


def test_a_llama_tokenizer_does_not_find_the_file_that_transformers_writes(tmp_path):
    """Worked around in models/tokenizers.py."""
    folder = tiny.make_tokenizer(tmp_path)
    assert not (folder / "sentencepiece.bpe.model").exists()
    with pytest.raises(Exception):
        transformers.AutoTokenizer.from_pretrained(str(folder))


def test_mistral_gives_a_tied_head_weights_of_its_own():
    """Refused in models/families/mistral.py."""
    config = transformers.MistralConfig(**{**tiny.config("mistral"), "tie_word_embeddings": True})
    model = transformers.MistralForCausalLM(config)
    assert model.lm_head.weight is not model.mistral.embed_tokens.weight


def test_tokens_whose_loss_is_zero_leave_the_denominator():
    """Not inherited: losses/supervised.py sums, the trainer divides by the number of labels."""
    logits = paddle.zeros([1, 2, 50])
    logits[0, 0, 7] = 1e4
    loss = LlamaPretrainingCriterion(transformers.LlamaConfig(vocab_size=50))(logits, paddle.to_tensor([[7, 3]]))
    assert float(loss) == pytest.approx(3.912, abs=1e-3)  # 1.956 is right
