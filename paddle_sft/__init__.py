"""Fine-tuning on PaddlePaddle: JSON in, a model that loads everywhere out."""

__version__ = "0.1.0"
