"""Models: a table of architectures, the parts they are composed of, and published checkpoints."""
