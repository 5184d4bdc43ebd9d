"""What clients send and get: one file an endpoint, and what they have in common."""
