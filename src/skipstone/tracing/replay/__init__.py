"""Runs recorded steps again."""
