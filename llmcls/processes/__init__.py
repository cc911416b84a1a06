"""The processes of one job: how they are started, how they work together, and how they end.

No other room reads the variables by which launchers tell a process its place (RANK, LOCAL_RANK, WORLD_SIZE ...).
"""
