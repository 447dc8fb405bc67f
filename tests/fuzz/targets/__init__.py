"""What is fuzzed: each module has a `target()`, from random numbers to an input."""
