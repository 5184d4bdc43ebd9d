"""Many prompts answered one time, here or in a Ray cluster, in their order and across kills.

``units`` shares prompts out and decodes them; ``answers`` is the file that has what is answered.
"""
