"""What recording and sanitizing both need to read: the arguments of a call, and who called."""
