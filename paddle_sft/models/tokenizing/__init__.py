"""A model folder's tokenizer, as the `tokenizers` pipeline that transformers 5 makes of the same files."""
