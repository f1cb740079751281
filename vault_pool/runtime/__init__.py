"""
Time, threads and pools.
"""
