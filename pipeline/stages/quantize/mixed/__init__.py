"""Mixed precision: a number format for each group of Linears, chosen by measured sensitivities within a budget."""
