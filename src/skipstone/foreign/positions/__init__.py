"""Position maps: which position of the canvas every row of every tensor belongs to."""
