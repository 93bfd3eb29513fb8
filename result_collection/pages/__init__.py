"""The report: HTML pages and their charts."""
