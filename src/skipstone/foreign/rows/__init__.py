"""Which rows of which canvas a call of foreign code computes."""
