"""Two runs and what is known of them, in five parts.

Where decisions part, what noise can do, what B should have done, the tensors of the step in
question, and the experiments that prove.
"""

from skipstone.diagnosis.case.case import Case

__all__ = ["Case"]
