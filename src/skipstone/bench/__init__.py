"""How fast the engine is here: timed cells, a gate before them, and a peer beside them."""
