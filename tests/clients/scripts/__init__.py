"""What runs inside a client's own environment: the client, asked by lines on stdin, tells what it saw on stdout.

These modules know nothing of the gateway and of pytest; what they print is judged in the main environment.
"""
