"""The only code that touches results: what a cell leaves on the disk, and how it is read back.

card      what a cell is (its identity, hashed), its columns, and what else a reader needs to know
records   the folder of a cell: card, records, summary
shards    parts of a cell that several processes write at the same time
files     pictures and maps beside the records
reading   cells as tables, figures and the report take them
images    the images that a cell was computed on
migration cells of an earlier version
"""
