"""Text in, ids out, and back.

The way of the data: ``messages`` -> ``templates`` (which one) -> ``sandbox`` (rendered, within what
``meter`` allows) -> ``kept`` (is the prompt still in it?) -> ``codec`` (ids). What is read from a
checkpoint for it: ``tokenizer``, ``special``, ``templates``.
"""

from skipstone.text.codec import Text
from skipstone.text.messages import Conversation, Message

__all__ = ["Conversation", "Message", "Text"]
