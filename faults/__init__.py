"""The fault bench: real faults with a known cause, and what the diagnosis says about each."""
