"""Rows on disk to token samples and batches. Numpy and the standard library; the tokenizer comes in from outside.

files -> source -> rows -> formats -> Conversation or Document -> template -> pieces -> tokenize -> Draft
      -> length_policy -> Sample -> collate -> Batch. `build.build_samples` walks the whole way.
"""
