"""What prefill and decode workers share: configuration, the engine's life, the face to other
processes.

The one place below the applications where engine and runtime meet.
"""
