"""What is minimised. A loss is a sum over trained tokens; the divisor is the caller's, who sees the whole step."""
