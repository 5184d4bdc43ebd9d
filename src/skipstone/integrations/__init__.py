"""Skipstone inside other people's programs; each module needs an extra of its own."""
