"""The sanitizer: which position of the canvas every row of every tensor stands for."""
