"""What people see of a trace: lines in the terminal, pages in a browser."""
