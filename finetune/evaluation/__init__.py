"""How sure a score is: predictions of dev rows, intervals and comparisons of models."""
