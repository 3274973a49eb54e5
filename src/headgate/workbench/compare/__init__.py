"""``headgate compare``: the same load on several targets, one after the other, in interleaved rounds.

``targets`` says who is compared, ``start`` runs the gateways that have to be started, ``medians``* is what the rounds
come to (``report`` uses it too), ``run`` goes through it all, ``command`` is the command line. ``*`` is pure.

Interleaved, because a machine has good and bad minutes and they should fall on all alike; each round begins with
another target, so that none always comes first.
"""
