"""Commands of the console script `mimo`, one module each, and what they share."""
