"""``headgate bench``: a load on any OpenAI-compatible URL, what came of it, and a verdict against an SLO.

====================  ==================================================================
when                  ``arrivals``* says when requests are due, ``callers``* who sends them
what                  ``workload``* makes prompts, ``words``* makes so many tokens of them
to whom               ``target`` asks an address what it takes, ``body`` writes requests for it
the load              ``load`` sends, ``answer`` times what comes back, ``watch`` watches this client itself
what is kept          ``raw``: one line for each request, and how they were made
what it comes to      ``summary``*, with ``figures``*, ``slo``* and ``fairness``*, from raw records and nothing else
what is shown         ``view`` while it runs, ``tables`` after it, ``command`` on the command line
====================  ==================================================================

``*`` is pure. ``compare`` runs the same load against several targets, ``report`` draws what was kept.
"""
