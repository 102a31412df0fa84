"""What a user may write: a documented dataclass per group, read from JSON, YAML and the command line, no paddle."""
