"""What tests and users share: code that stands for a user's own, with its author's mistakes."""
