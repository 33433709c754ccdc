"""The report: a study's table as one self-contained HTML page and as Markdown with its figures beside it."""

from flatnext.report.write import write_report

__all__ = ["write_report"]
