"""What the report tells about the predictions on the dev sets."""
