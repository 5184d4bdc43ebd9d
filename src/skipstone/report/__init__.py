"""One page about two or more runs, and its charts for notebooks. No torch here."""
