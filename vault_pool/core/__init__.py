"""
The pure core: values in, decisions out.

Rule 1: nothing here knows a thread, a socket, a clock, chance or a log. Callers pass *now* and the random *draw*.
Rule 2: instants are floats on the caller's clock, durations floats in seconds.
"""
