"""Who may ask, how much, and for how long; before anything is decoded, and while it is."""
