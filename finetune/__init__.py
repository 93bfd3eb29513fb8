"""Finetuning on GLUE: the tasks, the search over settings, and the runs that it is made of."""
