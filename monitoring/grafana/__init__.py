"""The Grafana dashboards as code: ``make dashboards`` writes ``dashboards/*.json`` from what is in this folder.

``boards/`` has one file for each dashboard: what it shows, in the order of the screen, and what to do when it is red.
``queries`` are the words that PromQL is made of here, ``panels`` how a panel looks, ``page`` what every dashboard has:
grid, ids, variables, links, annotations. The JSON is committed, so nobody needs Python to import it; a test fails when
it is older than the code.

It is the classic form of a dashboard (``schemaVersion`` 42), which every Grafana since 10 takes, and not the newer
resource form, which only 12.2 and later do.
"""
