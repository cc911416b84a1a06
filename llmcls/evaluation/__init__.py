"""How good a classifier is: metrics, terminal tables, the files of an evaluation, and a baseline to beat."""
