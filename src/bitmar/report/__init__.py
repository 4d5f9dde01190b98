"""Everything that is claimed of a model, measured by one command and put beside the paper on one page.

`sections.py` lists what is measured; a section's result is plain JSON, kept as soon as it is there. `tables.py` turns
results into tables and says where a row is missing and why; `render.py` writes them. Begin with `write.write_report`.
"""
