"""Configuration: every key and its default (defaults), YAML made into a config (loading)."""
