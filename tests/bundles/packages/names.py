NAME = "a file beside middleware.py"
