"""What an evaluation measures, prints and draws."""
