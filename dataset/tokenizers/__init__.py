"""Tokenizers: built, loaded, converted, trained and checked."""
