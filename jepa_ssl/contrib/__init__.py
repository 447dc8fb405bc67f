"""Tested parts outside the core. The rest of the package does not import them."""
