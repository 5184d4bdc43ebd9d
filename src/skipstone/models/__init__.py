"""Models: a contract, dense LLaDA, and the reader of published checkpoints."""
