"""The families' networks: PaddleNLP's classes, what is mended in them, and the classes that PaddleNLP lacks."""
