"""Pages: the templates, scripts, styles and phrases that people see.

Owns what a page shows and in which language. web.routes decides which address shows it.
"""
