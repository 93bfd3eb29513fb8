"""Predicts files of any size with a finetuned model, in constant memory."""
