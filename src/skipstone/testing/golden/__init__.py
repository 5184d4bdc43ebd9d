"""Recorded truth of published code, decoded again by the engine under its public settings."""
