"""Faults in our own engine, each where it would really occur, by replacing one function.

Every fault is a context manager: inside, the engine is faulty. What a fault is and where it acts is
known to the bench only; the diagnosis sees the two runs.
"""
