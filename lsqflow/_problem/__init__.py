"""What is to be solved: a problem, and how one problem becomes another."""
