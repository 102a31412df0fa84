"""Answers from a model: the loop is PaddleNLP's, the prompt is what training saw."""
