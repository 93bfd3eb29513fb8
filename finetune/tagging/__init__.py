"""Reads and writes tagged sentences, and knows the schemes of their tags."""
