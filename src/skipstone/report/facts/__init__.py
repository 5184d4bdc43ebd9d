"""What the report says in words, not yet in a language; what comes from runs is text as it is."""
