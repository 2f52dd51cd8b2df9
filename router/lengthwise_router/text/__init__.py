"""Text in and text out: requests checked and tokenised, tokens turned back into text."""
