"""
A shop: the project and its only application.
"""
