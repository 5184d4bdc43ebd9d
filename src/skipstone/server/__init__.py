"""The engine over HTTP, as OpenAI's clients ask for it (extra ``serve``).

It decodes nothing itself. The way of a request is the order of the packages: ``protocol`` (what
clients send and get) -> ``access`` (who may ask, and how much) -> ``answer`` (prompts and settings
for ``Engine.submit``, and text out of its handles) -> ``routes`` (one file an endpoint). ``app``
puts them together, ``serving`` runs them.
"""
