"""Run folders in, one page to look at out: ``python -m shared.report runs/A runs/B --out report.html``.

``reading`` opens the folders, ``scores`` turns probe reports into tables, ``figures`` and ``maps`` draw, ``drawing``
makes matplotlib's SVG fit for a page, and ``page`` fills the template. The page needs no script and no network.
"""
