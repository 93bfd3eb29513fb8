"""HTML pages of the report, and their charts."""
