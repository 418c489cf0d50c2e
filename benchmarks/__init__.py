"""Speed, memory and operator applications of lsqflow beside its peers."""
