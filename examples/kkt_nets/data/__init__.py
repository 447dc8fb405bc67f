"""The LPs of a run: read, generated, stored, split, and made into batches."""
