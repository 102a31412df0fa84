"""What every room may use: errors, logging, catalogues, records, safe writing. Standard library and numpy only."""
