"""Two engines on the same prompts, as a gate for CI."""
