"""Training data: where samples come from, how they are stored, and the batches a run draws from them."""
