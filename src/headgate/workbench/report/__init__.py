"""``headgate report``: raw results drawn and told, as one HTML file and as Markdown.

Everything comes from raw files and nothing else: no figure is typed in, none is remembered. Each says which files it
came from.

``series``* picks the values, ``axis``* and ``chart``* draw them as SVG, ``figures``* joins the two into what is shown,
``tables``* has the tables, ``page``* and ``markdown``* put it all together, ``run`` reads and writes. ``*`` is pure.
"""
