"""The request as hooks see it."""
