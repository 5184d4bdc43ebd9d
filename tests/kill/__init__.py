"""The kill harness: SIGKILL at a random moment, for every command that writes.

After each kill the law is checked: no finished step is lost, nothing looks finished that is not,
and the same command again succeeds, to the same result, and leaves nothing of the killed one.
``docs/fuzz.md`` tells how to run it.
"""
