"""A training step recorded once and played back, kernel by kernel, to the same bits."""
