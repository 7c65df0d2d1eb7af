"""What watches over the runs from outside: a health check that is pinged, and a file of metrics.

Neither ever changes what a run does, or its exit code.
"""
