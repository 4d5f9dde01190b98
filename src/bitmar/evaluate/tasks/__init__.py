"""A file for each task: its data, its run, its tables. `bitmar.evaluate.table` lists them."""
