"""Writes down what a run shows."""
