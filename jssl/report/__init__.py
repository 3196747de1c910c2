"""What is to be looked at of a run: curves, pictures, and report.html."""
