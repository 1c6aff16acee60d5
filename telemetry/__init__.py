"""What a process reports about itself. Everybody may import this; it imports nothing of ours."""
