"""What a call record means: pure rules about requests, answers and legs.

Nothing here reads a clock, a socket, a file or a random number: every rule takes values and gives values.
"""
