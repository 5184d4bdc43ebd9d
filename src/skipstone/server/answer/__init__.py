"""From a checked request to what is answered: ``plan``, ``choices``, ``text``, ``stream``."""
