"""Good, tested, and not core: nothing of the package imports it."""
