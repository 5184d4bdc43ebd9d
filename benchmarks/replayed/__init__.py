"""Decoding runs that answer as others did: schedules, and policies that take theirs from one."""
