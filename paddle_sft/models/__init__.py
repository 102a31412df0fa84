"""PaddleNLP models and tokenizers in and out, in Paddle's and in Hugging Face's layout."""
