"""The Golub–Kahan process and the scalar tools of the recurrences on it."""
