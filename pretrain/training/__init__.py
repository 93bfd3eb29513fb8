"""The loop's parts: data, losses, validation, measurements and micro batches."""
