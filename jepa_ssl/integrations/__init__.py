"""One outside library in each file; none is imported unless you import its file."""
