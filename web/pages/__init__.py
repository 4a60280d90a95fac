"""Pages: the templates, scripts, styles and words that people see.

Owns what a page shows and in which language. Which address shows it is web.routes' decision.
"""
