"""`week3 audit`: what the suite is worth, proved from real runs."""
