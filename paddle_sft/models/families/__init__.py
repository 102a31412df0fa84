"""One file a family: the record of what its config.json may say. No paddle here: the networks stand next door."""
