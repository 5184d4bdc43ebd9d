"""Traces of answers whose clients asked for one: kept, listed, examined."""
