"""Parts of the training loop: data, losses, validation, measurements and micro batches."""
