"""Several ranks that train one model; so far what tensor and pipeline parallelism of two ranks need without GPUs."""
