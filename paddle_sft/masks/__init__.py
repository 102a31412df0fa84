"""Who may see whom in a packed row, from segment lengths alone. A mask is made where it is used and never stored."""
