"""What attention is given within a layer, and what it gives, in whatever way it is written."""
