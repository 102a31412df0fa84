"""Random small configs of every family, for tests/parity/test_random_configs.py: one file a family, named like it.

To add a family, write configs/NAME.py (NAME as in models.catalogue.FAMILIES) with
    random_config(rng, number) -> the keys of its config, model_type among them, as transformers 5 takes them.
        Draw odd shapes: sizes that divide nothing, heads that share keys, biases, tied heads, windows. What must surely
        come up (each kind of rope, say) is chosen by number (0, 1, 2, ...), not drawn. Samples have 2 to 45 tokens, so
        let windows and original lengths lie between.
    MINIMAL = the keys that Family.keys calls REQUIRED, and no others: everything else must mean transformers' default.
    ZERO_GRADIENTS = (optional) regular expressions of Hugging Face's names of parameters whose gradient is zero by
        algebra, such as a key's bias without rotary positions; there is no relative difference of roundings.
"""
