"""The leaderboard: every policy at its published default and along its knob, and what it broke."""
