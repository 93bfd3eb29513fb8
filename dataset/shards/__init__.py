"""Text shards: articles shuffled and split into train and test."""
