"""Published code beside us: a local checkout that the user names, with our weights.

One file a peer; ``table`` knows which there are, and ``beside`` times them. None of their code
comes with this package.
"""
