"""One call: run a good and a bad decode, find out why they part, and show it."""
