"""Data preparation: raw text to text shards, text shards to masked samples for pretraining."""
