"""Keys and values of requests: where they lie, and how much memory they may take."""
