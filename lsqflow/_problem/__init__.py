"""What is to be solved: a problem, and problems restated."""
