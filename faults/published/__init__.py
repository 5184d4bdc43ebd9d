"""The benches on published code: checkouts of it are taken by path, and none of it is in here.

``python -m faults.published`` plants faults: statements of ours are put into functions in memory,
and tiny random models are patched. What a fault is, and what is right to say about it, was written
down before the diagnosis was asked; ``--heldout`` and ``--unseen`` take faults that were chosen
without knowing the rules.
``python -m faults.published.right`` runs the loops as they are.
"""
