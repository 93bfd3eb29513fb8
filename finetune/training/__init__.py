"""One finetuning run: the model on its device, the loop and the metrics."""
