"""One place builds tables: from cells to text.

``console`` prints the cells that a command has just finished; everything else is rebuilt from what lies on the disk:

    columns     which cells may share a column, which methods are marked
    specs       what each table shows
    ablations   sweeps over one decision
    render      Markdown, CSV, LaTeX
    comparisons differences to the best baseline, ranks
    published   beside the published numbers
    build       all files, as text (those of the finished search: experiments/studies)
    listing     cells in a few lines
"""
