"""Load: requests that arrive at random, and those who are asked."""
