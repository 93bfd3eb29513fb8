"""The types of tasks: what a model learns of a text, and how it is scored."""
