"""The fuzz harness: thousands of broken inputs, each known by its kind and number.

A case is made from its kind and its number alone, so that it is the same everywhere:
``python -m tests.fuzz --case trace:1234`` runs it again. Cases run in worker processes, which are
measured from outside: one that hangs or grows is killed, and that is a finding. ``docs/fuzz.md``
has the bars.
"""
