"""Everything that is claimed of a model, measured by one command and put beside the paper on one page.

`sections.py` lists what is measured: the table of tasks and what only a report has. A section's result is plain JSON,
kept as soon as it is there. `chapters.py` gathers the tables, `render.py` writes them. Begin with `write.write_report`.
"""
