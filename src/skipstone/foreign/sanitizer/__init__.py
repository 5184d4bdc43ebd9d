"""The sanitizer: what it finds while other people's code runs, and how it is switched on."""
