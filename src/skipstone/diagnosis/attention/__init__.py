"""What attention was given in two runs, and which part of it makes the difference.

Nothing here needs a model: attention is small enough to be computed again from what was recorded.
"""
