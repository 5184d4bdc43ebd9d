"""A corpus of small decoding loops, one for each shape of code that people write."""
