"""`ssd-edge doctor`: what this machine has, what it lacks, what that would give, and the exact fix."""
