"""The paper's ablations (Tables 4-8) on ToyVIS: what each idea is worth, row by row, seed by seed."""
