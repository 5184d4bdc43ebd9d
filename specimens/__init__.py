"""Other people's models and loops, written for the tests: what a tracer is attached to.

Three styles of one network, each with the weights of a Skipstone model, and decoders for them,
correct and faulty.
"""
