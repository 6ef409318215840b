"""The report of an evaluation: one HTML page that carries everything it shows, and fetches nothing.

markup.py    HTML that cannot be injected into
charts.py    histogram, ROC and PRO as inline SVG
pictures.py  frames, maps and truths as data URIs
page.py      the page, section by section
style.py     its style sheet
"""

from agp_edge.report.page import describe_subject, render_report, write_report
from agp_edge.report.pictures import choose_hardest

__all__ = ["choose_hardest", "describe_subject", "render_report", "write_report"]
