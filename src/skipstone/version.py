"""The version, where every part may read it without importing the rest."""

__version__ = "0.1.0"
