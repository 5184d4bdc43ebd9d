"""Pebble: a tiny masked diffusion language model whose right answers are known."""
