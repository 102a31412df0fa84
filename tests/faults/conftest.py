"""The end-to-end tests' lab: a tiny base model with data."""

from tests.e2e.conftest import lab  # noqa: F401
