"""What a step of the engine takes, and what adds to it."""
