"""
Where credentials come from.
"""
