"""The hyperparameter search: its grid, its state and its workers."""
