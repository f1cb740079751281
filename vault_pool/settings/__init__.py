"""
One table of settings, and what is made of a mapping or of the environment by it.
"""
